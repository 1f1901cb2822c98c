"""What a build folder holds that no manifest uses, and its removal: caches of earlier recipes, sets of dropped stages.

What `explain` reads is never among it: the samples tables that the last build used, the ledger, the draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mindvl_data.atomic import PARTIAL, remove
from mindvl_data.errors import BuildError
from mindvl_data.manifest import FILE_NAME
from mindvl_data.pipeline.folder import WORK, held
from mindvl_data.runtime.mirror import SEAL, USES
from mindvl_data.tables.schema import EVALUATIONS_INDEX, SAMPLES_INDEX

CACHES = ("samples", "scores", "tokens", "media")
# Endings of names. What models answered is dear, and of use to any later recipe.
KEPT = (SAMPLES_INDEX, EVALUATIONS_INDEX, "fingerprints.json", ".answers")


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can go. on_request: a packed set, which goes only when that is asked for."""

    path: Path
    bytes: int
    why: str
    on_request: bool = False


def garbage(build: Path) -> list[Garbage]:
    """All that the last build of the folder did not use, sorted by path. Raises BuildError where none was finished."""
    uses = _uses(build)
    sets = sorted(path.parent for path in build.glob(f"*/{FILE_NAME}"))
    gone = [path for path in sets if path.name not in uses["sets"]]
    # A set that points into the build's media keeps all of it: which files, only its shards say.
    keep_media = any(_references(path) for path in gone)
    found = [Garbage(path, _size(path), "left by a build that was stopped") for path in build.glob(WORK)]
    found += [Garbage(path, _size(path), "left by a build that was stopped") for path in _unfinished(build)]
    for name in CACHES:
        if name == "media" and keep_media:
            continue
        for path in sorted((build / name).glob("*")):
            stem = f"{name}/{path.name.split('.')[0]}"
            if (
                stem not in uses["files"]
                and not path.name.removesuffix(SEAL).endswith(KEPT)
                and not path.match(PARTIAL)
            ):
                found.append(Garbage(path, _size(path), "a cache of an earlier recipe"))
    for path in gone:
        why = "a packed set that the recipe has no more"
        found.append(Garbage(path, _size(path), why, on_request=True))
        ledger = build / "ledger" / f"fit-{path.name}.parquet"
        if ledger.exists():
            found.append(Garbage(ledger, _size(ledger), "the ledger of such a set", on_request=True))
    return sorted(found, key=lambda item: str(item.path))


def collect(build: Path, sets: bool) -> list[Garbage]:
    """Remove it (packed sets only with `sets`); what was removed. Raises BuildError while a build is at work there."""
    with held(build):
        found = [item for item in garbage(build) if sets or not item.on_request]
        for item in found:
            remove(item.path)
    return found


def _uses(build: Path) -> dict[str, set[str]]:
    try:
        noted = json.loads((build / USES).read_text())
        uses = {name: set(noted[name]) for name in ("files", "sets")}
        tables = json.loads((build / "samples" / SAMPLES_INDEX).read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{build}: does not say what its last build used ({error}); it is no build folder, or no build was "
            "finished there: build first"
        ) from error
    return uses | {"files": uses["files"] | {f"samples/{table['samples'].split('.')[0]}" for table in tables}}


def _unfinished(build: Path) -> Iterator[Path]:
    return (path for path in build.rglob(PARTIAL) if WORK not in path.parts)


def _references(folder: Path) -> bool:
    try:
        recipe = json.loads((folder / FILE_NAME).read_text())["recipe"]
        return bool(recipe.get("media") == "reference")
    except (OSError, ValueError, KeyError, AttributeError):
        return True


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
