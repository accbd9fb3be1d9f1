"""The error that is the user's to mend. Imports nothing, so that everything can raise it."""


class UserError(Exception):
    """About what the user gave or has: one message, exit code 2."""
