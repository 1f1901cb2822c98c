"""The one kind of error that a person who starts a run can act on."""


class UserError(Exception):
    """Says what happened, where and what to do; the command line prints it without a traceback."""
