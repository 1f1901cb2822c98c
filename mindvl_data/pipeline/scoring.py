"""The score columns of a build: which score gives which column, and its files, made when a rule first names it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.media import source_roots
from mindvl_data.pipeline.asking import ModelScore, ask, model_of
from mindvl_data.recipe.scores import (
    ClipScore,
    ClustersScore,
    FunctionScore,
    JoinedScore,
    JudgeScore,
    LeverageScore,
    NearestScore,
    Score,
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
    names,
    nearest,
    paths_of,
    uids,
)
from mindvl_data.steps.scores.columns import missing_in, sums_in, values_digest

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition


class Scores:
    """Files of score columns, a file a partition and column (or group of columns), under all they depend on."""

    def __init__(self, run: Run, partitions: Sequence[Partition]) -> None:
        self._run = run
        self._partitions = partitions
        self._files: dict[str, list[Path | None]] = {}
        self._by_column = {
            **{name: name for name in names()},
            **{column: name for name, score in run.recipe.scores.items() for column in score.columns_of(name)},
        }

    def score_of(self, columns: Iterable[str]) -> list[str]:
        """The scores that give these columns, in a fixed order; what is no score's column is passed over."""
        return sorted({self._by_column[column] for column in columns if column in self._by_column})

    def files(
        self, asked: Sequence[set[str]], alive: Sequence[NDArray[np.bool_]] | None = None
    ) -> list[tuple[Path, ...]]:
        """For every partition the files of the score columns among those asked of it, computed now or before.

        alive: the lines that a model is asked about, bool a partition; by default all.
        """
        wanted = [self.score_of(columns) for columns in asked]
        for name in sorted({name for score_names in wanted for name in score_names}):
            self._make(name, [name in score_names for score_names in wanted], alive)
        self._compute(wanted)
        found = [[self._files[name][number] for name in mine] for number, mine in enumerate(wanted)]
        made = [tuple(path for path in paths if path is not None) for paths in found]
        self._run.used.update(path for paths in made for path in paths)
        return made

    @property
    def costly(self) -> set[str]:
        """The columns that a model gives, or that come from one's."""
        scores = self._run.recipe.scores
        models = {c for n, s in scores.items() if isinstance(s, (ClipScore, JudgeScore)) for c in s.columns_of(n)}
        embedded = (NearestScore, ClustersScore, LeverageScore)
        of = {n: score.of for n, score in scores.items() if isinstance(score, embedded)}
        return models | {name for name, column in of.items() if column in models}

    def described(self) -> dict[str, dict[str, Any]]:
        """By source, the scores that were used: how each came about, a hash of its values, how many are missing."""
        told: dict[str, dict[str, Any]] = {}
        for name, files in sorted(self._files.items()):
            for source in self._run.recipe.sources:
                mine = [f for f, p in zip(files, self._partitions, strict=True) if f is not None and p.source == source]
                if mine:
                    score = self.score(name)
                    model = {"model": score.model} if isinstance(score, (ClipScore, JudgeScore)) else {}
                    values = {"sha256": values_digest(mine), "missing": missing_in(mine), **sums_in(mine)}
                    told.setdefault(source, {})[name] = {"by": score.by, **model, **values}
        return told

    def beside(self) -> list[list[Path]]:
        """For every partition the files of all scores that were used, by name."""
        files = [files for _, files in sorted(self._files.items())]
        return [[path for path in mine if path is not None] for mine in zip(*files, strict=True)] or [
            [] for _ in self._partitions
        ]

    # ------------------------------------------------------------------------------------ one score

    def score(self, name: str) -> Score:
        return self._run.recipe.scores.get(name) or FunctionScore(by="function", function=name)

    def _paths(self, name: str, how: object, due: Sequence[bool]) -> list[Path | None]:
        """The file of the score for every partition that asks for it, noted for `described`."""
        known = self._files.setdefault(name, [None] * len(self._partitions))
        for number, (partition, asked) in enumerate(zip(self._partitions, due, strict=True)):
            if asked:
                key = fingerprints.key(partition.samples.name, partition.version, how)
                known[number] = self._run.folder("scores") / f"{name}-{key}.parquet"
        return [path if asked else None for path, asked in zip(known, due, strict=True)]

    def _make(self, name: str, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None) -> None:
        score = self.score(name)
        if isinstance(score, JoinedScore):
            self._join(name, score, due)
        elif isinstance(score, UidsScore):
            self._list(name, score, due)
        elif isinstance(score, NearestScore):
            self._nearest(name, score, due, alive)
        elif isinstance(score, ClustersScore):
            self._cluster(name, score, due, alive)
        elif isinstance(score, LeverageScore):
            self._leverage(name, score, due, alive)
        elif isinstance(score, (ClipScore, JudgeScore)):
            self._ask(name, score, due, alive)

    def _ask(
        self, name: str, score: ModelScore, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None
    ) -> None:
        places = [number for number, asked in enumerate(due) if asked]
        mine = [self._partitions[number] for number in places]
        rows = [np.ones(pq.read_metadata(p.samples).num_rows, bool) for p in mine]
        masks = rows if alive is None else [alive[number] for number in places]
        model = model_of(self._run, name, score, self.pictures)
        known = self._files.setdefault(name, [None] * len(self._partitions))
        for number, path in zip(places, ask(self._run, name, model, mine, masks, self.pictures), strict=True):
            known[number] = path

    def _due(self, name: str, how: object, due: Sequence[bool]) -> list[tuple[Partition, Path]]:
        """Partitions whose file of the score is not there yet."""
        paths = self._paths(name, how, due)
        pairs = zip(self._partitions, paths, strict=True)
        return [(partition, path) for partition, path in pairs if path is not None and not seals.is_whole(path)]

    def _compute(self, wanted: Sequence[Sequence[str]]) -> None:
        """Scores by functions: all that a partition lacks in one pass over it."""
        tasks: dict[Path, dict[Path, Wanted]] = {}
        for name in sorted({name for mine in wanted for name in mine}):
            score = self.score(name)
            if not isinstance(score, FunctionScore):
                continue
            column, how = self.function(name, score)
            for partition, path in self._due(name, how, [name in mine for mine in wanted]):
                tasks.setdefault(partition.samples, {})[path] = column
        due = [compute.ScoreTask(samples, mine, self.pictures) for samples, mine in tasks.items()]
        self._run.step("score", compute.score, due)

    def function(self, name: str, score: FunctionScore) -> tuple[Wanted, object]:
        """The column to compute with its options resolved, and all that its values depend on."""
        options = dict(score.options)
        function = function_of(Wanted(name, score.function, tuple(options.items())))
        content = {}
        for option in paths_of(function) & set(options):
            options[option] = self.file(f"scores.{name}.options.{option}", str(options[option]))
            content[option] = fingerprints.of_tree(options[option])
        resolved = Wanted(name, score.function, tuple(sorted(options.items())))
        how = [
            score.function,
            score.options,
            content,
            reached.code("mindvl_data.steps.scores.compute", function.__module__),
        ]
        return resolved, how

    def _list(self, name: str, score: UidsScore, due: Sequence[bool]) -> None:
        listed = self.file(f"scores.{name}.path", score.path)
        how = ["uids", fingerprints.of_file(listed), reached.code("mindvl_data.steps.scores.uids")]
        tasks = [uids.UidsTask(p.samples, name, listed, path) for p, path in self._due(name, how, due)]
        self._run.step(f"score {name}", uids.look_up, tasks)

    def _join(self, name: str, score: JoinedScore, due: Sequence[bool]) -> None:
        files = self.joined_files(name, score)
        content = [(file.uri, file.fingerprint, file.size) for file in files]
        code = reached.code("mindvl_data.steps.scores.joined")
        how = ["joined", content, score.on, score.column, score.columns, code]
        folder = self._run.folder("scores") / f"{name}-{fingerprints.key(how)}.index"
        self._run.used.add(folder)
        missing = self._due(name, how, due)
        if not missing:
            return
        places = tuple((file.uri, file.place) for file in files)
        task = joined.IndexTask(name, places, score.column or score.on, score.columns, folder)
        self._run.step(f"index {name}", joined.index, [] if seals.is_whole(folder) else [task])
        if score.on == "key":
            joined.check_unique(name, [(p.file.uri, p.samples) for p in self._partitions])
        tasks = [joined.LookUpTask(p.samples, score.on, folder, path) for p, path in missing]
        self._run.step(f"score {name}", joined.look_up, tasks)

    def joined_files(self, name: str, score: JoinedScore) -> list[SourceFile]:
        raw = self._run.loaded.raw["scores"][name]["path"]
        shown = (raw,) if isinstance(raw, str) else tuple(raw)
        where, cache = f"scores.{name}", self._run.fingerprints(f"scores/{name}.fingerprints")
        if where not in self._run.files:
            try:
                self._run.files[where] = source_files(score.path, shown, None, self._run.loaded.folder, cache)
            except ValueError as error:
                raise ScoreError(f"{where}.path: {error}") from error
        if not self._run.only_looks:
            self._run.folder("scores")
            cache.save()
        return self._run.files[where]

    def _nearest(
        self, name: str, score: NearestScore, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None
    ) -> None:
        centres = self.file(f"scores.{name}.centres", score.centres)
        targets = self.file(f"scores.{name}.targets", score.targets) if score.targets else None
        self._place(name, score.of, centres, targets, self._embeddings(name, score.of, due, alive))

    def _cluster(
        self, name: str, score: ClustersScore, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None
    ) -> None:
        embeddings = self._embeddings(name, score.of, due, alive)
        files = tuple(path for path in embeddings if path is not None)
        seed, code = self._run.recipe.seed, reached.code("mindvl_data.steps.scores.clusters")
        key = fingerprints.key([path.name for path in files], score.of, score.clusters, score.iterations, seed, code)
        centres = self._run.folder("scores") / f"{name}-{key}.npy"
        self._run.used.add(centres)
        task = clusters.ClustersTask(files, score.of, score.clusters, score.iterations, seed, centres)
        self._run.step(f"cluster {name}", clusters.cluster, [] if seals.is_whole(centres) else [task])
        self._place(name, score.of, centres, None, embeddings)

    def _leverage(
        self, name: str, score: LeverageScore, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None
    ) -> None:
        embeddings = self._embeddings(name, score.of, due, alive)
        files = tuple(path for path in embeddings if path is not None)
        code = reached.code("mindvl_data.steps.scores.leverage")
        key = fingerprints.key([path.name for path in files], score.of, score.energy, code)
        directions = self._run.folder("scores") / f"{name}-{key}.npz"
        self._run.used.add(directions)
        search = leverage.DirectionsTask(files, score.of, score.energy, directions)
        self._run.step(f"directions {name}", leverage.find_directions, [] if seals.is_whole(directions) else [search])
        known = self._files.setdefault(name, [None] * len(self._partitions))
        tasks = []
        for number, path in enumerate(embeddings):
            if path is not None:
                out = self._run.folder("scores") / f"{name}-{fingerprints.key(path.name, key)}.parquet"
                known[number] = out
                if not seals.is_whole(out):
                    tasks.append(leverage.LeverageTask(path, score.of, directions, name, out))
        self._run.step(f"score {name}", leverage.score, tasks)

    def _embeddings(
        self, name: str, of: str, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None
    ) -> list[Path | None]:
        """For every partition that asks for it, the file with the column of embeddings."""
        found = self.files([{of} if asked else set() for asked in due], alive)
        if not any(found):
            raise ScoreError(f"scores.{name}.of: no score gives a column {of!r}")
        return [paths[0] if paths else None for paths in found]

    def _place(
        self, name: str, of: str, centres: Path, targets: Path | None, embeddings: Sequence[Path | None]
    ) -> None:
        """The number of the nearest centre, or whether it is among the targets', for each partition's embeddings."""
        content = [fingerprints.of_file(centres), targets and fingerprints.of_file(targets)]
        code = reached.code("mindvl_data.steps.scores.nearest")
        known = self._files.setdefault(name, [None] * len(self._partitions))
        tasks = []
        for number, path in enumerate(embeddings):
            if path is not None:
                key = fingerprints.key(path.name, of, content, code)
                known[number] = out = self._run.folder("scores") / f"{name}-{key}.parquet"
                if not seals.is_whole(out):
                    tasks.append(nearest.NearestTask(path, of, centres, targets, name, out))
        self._run.step(f"score {name}", nearest.place, tasks)

    # ------------------------------------------------------------------------------------- the run's

    def file(self, place: str, path: str) -> Path:
        found = self._run.loaded.folder / path
        if not found.exists():
            raise ScoreError(f"{place}: {path}: no such file (relative to the recipe's folder)")
        return found

    @cached_property
    def pictures(self) -> compute.Pictures:
        """Where the images of all samples lie."""
        run = self._run
        for path in (p.task.media for p in self._partitions):
            if path.exists():
                seals.checked(path)
        roots = tuple(source_roots({**run.loaded.raw.get("evaluations", {}), **run.loaded.raw["sources"]}))
        return compute.Pictures(run.media_from, roots, run.loaded.folder, run.recipe.limits.image_pixels)
