"""The exceptions that people are meant to read: the command line prints their message and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mindvl_data.expanded import masked


class UserError(ValueError):
    """Something outside the program is wrong; the message says what, where and what to do.

    Whatever was taken from the environment is hidden in it.
    """

    # What became of the samples until then (pipeline.funnel.FunnelLine), where the error comes from after that.
    funnel: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return masked(super().__str__())


@contextmanager
def reading(where: str, what: str, kind: type[UserError]) -> Iterator[None]:
    """Around the calls of libraries that open or read a file: whatever they raise is that file's fault.

    No library lists what it raises on damaged bytes, and the next version raises something else.

    Args:
        where: The file as messages name it.
        what: What it was read as, with its article: "a Parquet file".
        kind: The error to raise.

    Raises:
        UserError: Of that kind; one that the body raises itself passes through.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = str(error) or "no more is said"
        raise kind(f"{where}: cannot be read as {what} ({type(error).__name__}: {said})") from error


class BuildError(UserError):
    """A build that cannot go on."""
