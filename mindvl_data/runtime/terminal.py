"""The terminal as every command meets it: colours and bars that go away in a pipe, errors that are one message."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from mindvl_data.errors import UserError
from mindvl_data.expanded import masked_values
from mindvl_data.runtime.shown import SafeConsole, exact

errors = SafeConsole(stderr=True)
PIPE_WIDTH = 200
# Libraries of stores and hubs, whose errors are the service's or the network's.
SERVICES = {
    "aiohttp",
    "botocore",
    "google",
    "azure",
    "gcsfs",
    "s3fs",
    "requests",
    "httpx",
    "huggingface_hub",
    "urllib3",
}


def shown(path: Path | str | None) -> str | None:
    """A path as one would type it here; a URL as it is."""
    if path is None or isinstance(path, str):
        return path
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def open_console(*, stderr: bool = False, markup: bool = False) -> SafeConsole:
    """Standard output or error; in a pipe nothing is folded or cut to a terminal's width.

    markup: only for words of ours, since names of samples, filters and files may hold brackets.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return SafeConsole(stderr=stderr, width=width, markup=markup, highlight=markup)


def print_json(value: Any) -> None:
    typer.echo(exact(json.dumps(masked_values(value), indent=2, ensure_ascii=False)))


def log_to_standard_error() -> None:
    """What the packages log, for people: with its time where nobody looks on, bare words on a terminal."""
    words = "%(message)s" if errors.is_terminal else "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(format=words, level=logging.WARNING)
    for package in ("mindvl_data", "mindvl_train"):
        logging.getLogger(package).setLevel(logging.INFO)


@contextmanager
def reported(debug: bool, failure: int = 2) -> Iterator[None]:
    """Errors as one message on standard error, and the exit code; the traceback only with --debug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names and texts that are not UTF-8, or that the terminal's own encoding cannot write.
            stream.reconfigure(errors="backslashreplace")
    log_to_standard_error()
    try:
        with stoppable(), _heard():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:
        # The reader has left (head, grep -q): what is done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        errors.print("Stopped. What was finished is kept: run the same command again to go on.")
        raise typer.Exit(exit_code(error)) from None
    except Exception as error:  # noqa: BLE001 -- each is said, and ends the command
        expected = isinstance(error, (UserError, OSError)) or type(error).__module__.split(".")[0] in SERVICES
        what = (
            str(error) if expected else f"{type(error).__name__}: {error} (a fault of the program; --debug shows where)"
        )
        if debug:
            print_traceback()
        else:
            errors.print(f"error: {what}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(failure if expected else 2) from None


def print_traceback() -> None:
    """That of the error at hand, on standard error. Python's own would say what was taken from the environment, and
    command the terminal with what stands in data."""
    SafeConsole(stderr=True).print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a scheduler sends before it kills."""


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends the body as Ctrl-C does; see `exit_code`."""

    def stop(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(stopped: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)


@contextmanager
def _heard() -> Iterator[None]:
    """Ctrl-C is said again when it fell into a finaliser, where Python drops what is raised."""
    before = sys.unraisablehook

    def again(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            # By a signal from a thread: raised in this function it would be dropped once more.
            main = threading.main_thread().ident
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            before(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
