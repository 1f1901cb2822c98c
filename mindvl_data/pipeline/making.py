"""How score columns come about: a function for each kind of score, in a table under the recipe's `by`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.pipeline.asking import ModelOf, ask, clip_model, judge_model
from mindvl_data.recipe.scores import (
    AskingScore,
    ClustersScore,
    FunctionScore,
    JoinedScore,
    LeverageScore,
    NearestScore,
    UidsScore,
)
from mindvl_data.runtime import fingerprints, reached, seals
from mindvl_data.sources.files import SourceFile, source_files
from mindvl_data.steps.scores import (
    ScoreError,
    Wanted,
    clusters,
    compute,
    function_of,
    joined,
    leverage,
    nearest,
    paths_of,
    uids,
)

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition

# For every partition the file of a score's columns; None of those that do not ask for them.
Files: TypeAlias = list[Path | None]


@dataclass(frozen=True)
class Request:
    """A score whose columns some partitions ask for.

    due: bool a partition. alive: bool [samples] a partition, those that a model is asked about; None: all.
    embeddings: gives the files of another score's column, for the same partitions.
    """

    run: Run
    name: str
    partitions: Sequence[Partition]
    due: Sequence[bool]
    alive: Sequence[NDArray[np.bool_]] | None
    pictures: compute.Pictures
    embeddings: Callable[[str], Files]

    @property
    def folder(self) -> Path:
        return self.run.folder("scores")

    def file(self, key: str, path: str) -> Path:
        """A file that the score names under a key of its own."""
        return file_of(self.run, f"scores.{self.name}.{key}", path)

    def files(self, how: object) -> Files:
        """Where the columns of each partition lie.

        Args:
            how: All that its values depend on beside the partition.
        """
        return [
            self._path(fingerprints.key(partition.samples.name, partition.version, how)) if due else None
            for partition, due in zip(self.partitions, self.due, strict=True)
        ]

    def made_of(self, embeddings: Files, how: Sequence[object]) -> Files:
        """The same of a score that is made of another's columns, in `embeddings`."""
        return [path and self._path(fingerprints.key(path.name, *how)) for path in embeddings]

    def missing(self, files: Files) -> list[tuple[Partition, Path]]:
        """Partitions whose file of the score is not there yet."""
        pairs = zip(self.partitions, files, strict=True)
        return [(partition, path) for partition, path in pairs if path is not None and not seals.is_whole(path)]

    def _path(self, key: str) -> Path:
        return self.folder / f"{self.name}-{key}.parquet"


def file_of(run: Run, where: str, path: str) -> Path:
    """A file relative to the recipe's folder. Raises ScoreError where there is none."""
    found = run.loaded.folder / path
    if not found.exists():
        raise ScoreError(f"{where}: {path}: no such file (relative to the recipe's folder)")
    return found


def compute_all(requests: Sequence[tuple[Request, FunctionScore]]) -> list[Files]:
    """The files of scores by functions: all that a partition lacks is computed in one pass over it."""
    made: list[Files] = []
    tasks: dict[Path, dict[Path, Wanted]] = {}
    for request, score in requests:
        column, how = resolved(request.run, request.name, score)
        made.append(request.files(how))
        for partition, path in request.missing(made[-1]):
            tasks.setdefault(partition.samples, {})[path] = column
    if requests:
        first = requests[0][0]
        due = [compute.ScoreTask(samples, columns, first.pictures) for samples, columns in tasks.items()]
        first.run.step("score", compute.score, due)
    return made


def resolved(run: Run, name: str, score: FunctionScore) -> tuple[Wanted, object]:
    """The column to compute with the paths among its options resolved, and all that its values depend on."""
    options = dict(score.options)
    function = function_of(Wanted(name, score.function, tuple(options.items())))
    content = {}
    for option in paths_of(function) & set(options):
        options[option] = file_of(run, f"scores.{name}.options.{option}", str(options[option]))
        content[option] = fingerprints.of_tree(options[option])
    code = reached.code("mindvl_data.steps.scores.compute", function.__module__)
    how = [score.function, score.options, content, code]
    return Wanted(name, score.function, tuple(sorted(options.items()))), how


def joined_files(run: Run, name: str, score: JoinedScore) -> list[SourceFile]:
    """The files that a score is joined from. Raises ScoreError where there are none."""
    raw = run.loaded.raw["scores"][name]["path"]
    shown = (raw,) if isinstance(raw, str) else tuple(raw)
    where, cache = f"scores.{name}", run.fingerprints(f"scores/{name}.fingerprints")
    if where not in run.files:
        try:
            run.files[where] = source_files(score.path, shown, None, run.loaded.folder, cache)
        except ValueError as error:
            raise ScoreError(f"{where}.path: {error}") from error
    if not run.only_looks:
        run.folder("scores")
        cache.save()
    return run.files[where]


def _look_up(request: Request, score: UidsScore) -> Files:
    listed = request.file("path", score.path)
    files = request.files(["uids", fingerprints.of_file(listed), reached.code("mindvl_data.steps.scores.uids")])
    tasks = [uids.UidsTask(p.samples, request.name, listed, path) for p, path in request.missing(files)]
    request.run.step(f"score {request.name}", uids.look_up, tasks)
    return files


def _join(request: Request, score: JoinedScore) -> Files:
    run, name = request.run, request.name
    sources = joined_files(run, name, score)
    content = [(file.uri, file.fingerprint, file.size) for file in sources]
    code = reached.code("mindvl_data.steps.scores.joined")
    how = ["joined", content, score.on, score.column, score.columns, code]
    index = request.folder / f"{name}-{fingerprints.key(how)}.index"
    run.used.add(index)
    files = request.files(how)
    missing = request.missing(files)
    if not missing:
        return files
    places = tuple((file.uri, file.place) for file in sources)
    task = joined.IndexTask(name, places, score.column or score.on, score.columns, index)
    run.step(f"index {name}", joined.index, [] if seals.is_whole(index) else [task])
    if score.on == "key":
        joined.check_unique(name, [(p.file.uri, p.samples) for p in request.partitions])
    run.step(
        f"score {name}", joined.look_up, [joined.LookUpTask(p.samples, score.on, index, path) for p, path in missing]
    )
    return files


def _nearest(request: Request, score: NearestScore) -> Files:
    centres = request.file("centres", score.centres)
    targets = request.file("targets", score.targets) if score.targets else None
    return _place(request, score.of, centres, targets, request.embeddings(score.of))


def _cluster(request: Request, score: ClustersScore) -> Files:
    embeddings = request.embeddings(score.of)
    known = tuple(path for path in embeddings if path is not None)
    seed, code = request.run.recipe.seed, reached.code("mindvl_data.steps.scores.clusters")
    key = fingerprints.key([path.name for path in known], score.of, score.clusters, score.iterations, seed, code)
    centres = request.folder / f"{request.name}-{key}.npy"
    request.run.used.add(centres)
    task = clusters.ClustersTask(known, score.of, score.clusters, score.iterations, seed, centres)
    request.run.step(f"cluster {request.name}", clusters.cluster, [] if seals.is_whole(centres) else [task])
    return _place(request, score.of, centres, None, embeddings)


def _leverage(request: Request, score: LeverageScore) -> Files:
    run, name = request.run, request.name
    embeddings = request.embeddings(score.of)
    known = tuple(path for path in embeddings if path is not None)
    code = reached.code("mindvl_data.steps.scores.leverage")
    key = fingerprints.key([path.name for path in known], score.of, score.energy, code)
    directions = request.folder / f"{name}-{key}.npz"
    run.used.add(directions)
    search = leverage.DirectionsTask(known, score.of, score.energy, directions)
    run.step(f"directions {name}", leverage.find_directions, [] if seals.is_whole(directions) else [search])
    files = request.made_of(embeddings, [key])
    tasks = [
        leverage.LeverageTask(source, score.of, directions, name, out) for source, out in _not_there(embeddings, files)
    ]
    run.step(f"score {name}", leverage.score, tasks)
    return files


def _place(request: Request, of: str, centres: Path, targets: Path | None, embeddings: Files) -> Files:
    """The number of the nearest centre, or whether it is among the targets', for each partition's embeddings."""
    content = [fingerprints.of_file(centres), targets and fingerprints.of_file(targets)]
    files = request.made_of(embeddings, [of, content, reached.code("mindvl_data.steps.scores.nearest")])
    tasks = [
        nearest.NearestTask(source, of, centres, targets, request.name, out)
        for source, out in _not_there(embeddings, files)
    ]
    request.run.step(f"score {request.name}", nearest.place, tasks)
    return files


def _not_there(embeddings: Files, files: Files) -> list[tuple[Path, Path]]:
    """The embeddings of each partition, and the file to make of them, where it is not there yet."""
    pairs = zip(embeddings, files, strict=True)
    return [(source, out) for source, out in pairs if source and out and not seals.is_whole(out)]


def _ask(model_of: ModelOf, request: Request, score: AskingScore) -> Files:
    places = [number for number, asked in enumerate(request.due) if asked]
    mine = [request.partitions[number] for number in places]
    if request.alive is None:
        masks = [np.ones(pq.read_metadata(partition.samples).num_rows, bool) for partition in mine]
    else:
        masks = [request.alive[number] for number in places]
    model = model_of(request.run, request.name, score, request.pictures)
    made = ask(request.run, request.name, model, mine, masks, request.pictures)
    files: Files = [None] * len(request.partitions)
    for number, path in zip(places, made, strict=True):
        files[number] = path
    return files


# By functions (`compute_all`) scores are computed together, each other kind by itself.
MAKERS: Mapping[str, Callable[[Request, Any], Files]] = {
    "joined": _join,
    "uids": _look_up,
    "nearest": _nearest,
    "clusters": _cluster,
    "leverage": _leverage,
    "clip": partial(_ask, clip_model),
    "judge": partial(_ask, judge_model),
}
