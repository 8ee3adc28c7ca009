"""The one exception that a user's mistake raises, wherever it is noticed."""


class UserError(Exception):
    """A mistake that the user can mend: a file, a value, an option.

    The message is one line that says what is wrong, where, and how to mend it. The command line prints it
    without a traceback and exits with 2; everything else that is raised is a failure of the program (exit 1).
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
