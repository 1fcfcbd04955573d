"""The error that all packages raise if a person can mend the cause."""

from tem_pipeline.text import one_line, redacted


class UserError(Exception):
    """Something outside the program is wrong.

    The message is one line. It names the file or the setting, the fault and what to do. Passwords in
    addresses are replaced, because messages reach logs, tables and the webhook.
    """

    def __init__(self, message: object) -> None:
        super().__init__(redacted(one_line(message)))
