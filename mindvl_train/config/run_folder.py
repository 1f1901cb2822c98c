"""What a run was started with, so that the same command goes on and another one does not by mistake."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mindvl_data import atomic
from mindvl_data.errors import UserError

RECORD = "run.json"
LOCK = ".lock"
# What the run keeps of the model folder that it began from.
START = "start"
# What may change between two starts of one run, because no loss depends on it; what becomes of a loss that is no number
# decides of steps to come alone.
FREE_KEYS = (
    *("name", "data", "out", "weights", "loader", "checkpoint", "loggers", "losses", "answers"),
    *("mesh", "activation_checkpointing", "peak_tflops", "non_finite"),
)

# What of the record is by stage; a set of a mixture is STAGE.NAME.
OF_STAGES = ("stages", "manifests", "source_weights")


class RunFolderError(UserError):
    """A run folder that belongs to another configuration or process; says which, and what to do."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it against a second process; the hold ends with the process, however it ends.

    Raises:
        RunFolderError: another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"{folder}: another run is at work there; wait for it or give another --out"
            ) from error
        yield


def claim(folder: Path, record: Mapping[str, Any], begun: int = 1) -> None:
    """Makes `folder` this run's, or finds that it is already: what of it has begun is as it was.

    Stages behind the one that it stands in may change, and further ones may follow, also of a run that had ended.

    Args:
        folder: where the run writes; it is there.
        record: the configuration and the manifests' ids, as JSON values.
        begun: how many stages have begun, by the last checkpoint.

    Raises:
        RunFolderError: it holds a run of another configuration.
    """
    path = folder / RECORD
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    if not path.exists():
        atomic.write_text(path, text)
        return
    before = json.loads(path.read_text())
    begun = min(begun, len(before["stages"]))
    changes = list(_changes(_fixed(before, begun), _fixed(record, begun)))
    if changes:
        raise RunFolderError(
            f"{folder} holds a run with another configuration:\n"
            + "\n".join(f"  {change}" for change in changes)
            + "\ngive another --out, take the change back, or remove the folder to begin again; to train longer, write "
            "a further stage behind the last"
        )
    if before["stages"] != record["stages"]:
        atomic.write_text(path, text)


def _fixed(record: Mapping[str, Any], begun: int) -> dict[str, Any]:
    """What may not change: all but the free keys, of the stages those that have begun."""
    later = list(record["stages"])[begun:]
    kept = {key: value for key, value in record.items() if key not in FREE_KEYS}
    return {key: _without(value, later) if key in OF_STAGES else value for key, value in kept.items()}


def _without(value: Any, names: list[str]) -> Any:
    return {key: one for key, one in value.items() if key.partition(".")[0] not in names}


def _changes(before: Any, after: Any, where: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{where}.{key}" if where else str(key)
            yield from _changes(before.get(key), after.get(key), inner)
        # Order counts where it means something: stages follow one another, the first matching glob wins.
        if set(before) == set(after) and list(before) != list(after):
            yield f"{where}: its keys stand in another order"
    elif before != after:
        yield f"{where}: was {json.dumps(before)}, is now {json.dumps(after)}"
