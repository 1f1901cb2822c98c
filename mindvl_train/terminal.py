"""What a run says when it cannot go on: one message, from one rank."""

import os
from collections.abc import Callable

import typer
from rich.markup import escape

from mindvl_data.errors import UserError
from mindvl_data.runtime.shown import SafeConsole
from mindvl_data.runtime.terminal import exit_code, log_to_standard_error, print_traceback, stoppable


def is_first() -> bool:
    """Whether this process speaks for the run: alone, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def or_exit(action: Callable[[], None], debug: bool) -> None:
    """Does it; an error that a person can act on is one message and exit code 2, any other a traceback and 1."""
    log_to_standard_error()
    try:
        with stoppable():
            action()
    except (typer.Exit, typer.Abort):
        raise
    except (UserError, OSError) as error:
        if debug:
            print_traceback()
            raise typer.Exit(2) from None
        # What all ranks find before they meet is said once; what one of them met later, it says itself.
        where = " ".join(getattr(error, "__notes__", ())) if not is_first() else ""
        if where or is_first():
            words = f"[red]error[/red] {where}{': ' if where else ''}{escape(str(error))}"
            SafeConsole(stderr=True).print(words, soft_wrap=True, highlight=False)
        raise typer.Exit(2) from None
    except Exception:  # noqa: BLE001 -- said in full, without secrets, and ends the command
        print_traceback()
        raise typer.Exit(1) from None
    except KeyboardInterrupt as error:
        SafeConsole(stderr=True).print("stopped; the same command goes on from the last checkpoint")
        raise typer.Exit(exit_code(error)) from None
