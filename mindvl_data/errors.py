"""The one exception that people are meant to read: the command line prints its message and nothing else."""


class UserError(ValueError):
    """Something outside the program is wrong; the message says what, where and what to do."""
