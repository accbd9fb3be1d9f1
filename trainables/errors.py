"""Errors that are about what the user gave or has: one message, exit code 2. Imports nothing."""


class UserError(Exception):
    """The text says what is wrong, where, and what to do."""
