"""Reading from a store that may fail or fall silent: again after a pause, within a time, and then an error."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from mindvl_data.errors import UserError

Read = TypeVar("Read")


class StoreError(UserError):
    """A store that does not give what it should; the message names the file and the range."""


@dataclass(frozen=True)
class Patience:
    """How often a read is tried, the pause before the second try in seconds (doubled before each later one), and
    the seconds that a try may take."""

    tries: int = 5
    pause: float = 0.5
    timeout: float = 60.0


def patiently(read: Callable[[], Read], what: str, patience: Patience) -> Read:
    """What `read` returns, tried as `patience` says. Raises StoreError, naming `what`.

    A file that is not there, or may not be read, is an answer and is not asked for again.
    """
    for number in range(patience.tries):
        if number:
            time.sleep(patience.pause * 2 ** (number - 1))
        try:
            return _within(read, patience.timeout)
        except FileNotFoundError as error:
            raise StoreError(f"{what}: no such file in the store; copy it again or build again") from error
        except PermissionError as error:
            raise StoreError(f"{what}: the store refuses it ({error})") from error
        except Exception as error:  # noqa: BLE001, every store's client raises its own
            last = error
    raise StoreError(
        f"{what}: the store failed {patience.tries} times, at last with {type(last).__name__}: {last}; "
        "start again when it answers, the run goes on where it was"
    ) from last


def _within(read: Callable[[], Read], seconds: float) -> Read:
    """In a thread of its own, left behind when it takes too long: a silent connection cannot be interrupted."""
    answer: queue.SimpleQueue[Callable[[], Read]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = read()
        except BaseException as error:  # noqa: BLE001, raised where it was asked for
            answer.put(_raiser(error))
        else:
            answer.put(lambda: found)

    threading.Thread(target=ask, daemon=True, name="store").start()
    try:
        outcome = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    return outcome()


def _raiser(error: BaseException) -> Callable[[], NoReturn]:
    def outcome() -> NoReturn:
        raise error

    return outcome
