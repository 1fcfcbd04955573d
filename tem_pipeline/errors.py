"""The error every part raises when a person can mend what is wrong."""


class UserError(Exception):
    """Something outside the program is wrong.

    The message is one line: it names the file or the setting, says what is wrong and what to do.
    """

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))
