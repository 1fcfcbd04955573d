"""The error that all packages raise if a person can mend the cause."""


class UserError(Exception):
    """Something outside the program is wrong.

    The message is one line. It names the file or the setting, the fault and what to do.
    """

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))
