"""The score columns of a build: which score gives which column, and its files, made when a rule first names it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.media import source_roots
from mindvl_data.pipeline.making import MAKERS, Files, Request, compute_all
from mindvl_data.recipe.scores import AskingScore, EmbeddingScore, FunctionScore, Score
from mindvl_data.runtime import seals
from mindvl_data.steps.scores import ScoreError, compute, names
from mindvl_data.steps.scores.columns import missing_in, sums_in, values_digest

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition


class Scores:
    """Files of score columns, a file a partition and column (or group of columns), under all they depend on."""

    def __init__(self, run: Run, partitions: Sequence[Partition]) -> None:
        self._run = run
        self._partitions = partitions
        self._files: dict[str, Files] = {}
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

        Args:
            alive: The lines that a model is asked about, bool a partition; by default all.
        """
        wanted = [self.score_of(columns) for columns in asked]
        self._make(sorted({name for mine in wanted for name in mine}), wanted, alive)
        found = [[self._files[name][number] for name in mine] for number, mine in enumerate(wanted)]
        made = [tuple(path for path in paths if path is not None) for paths in found]
        self._run.used.update(path for paths in made for path in paths)
        return made

    @property
    def costly(self) -> set[str]:
        """The columns that a model gives, or that come from one's."""
        scores = self._run.recipe.scores
        models = {c for n, s in scores.items() if isinstance(s, AskingScore) for c in s.columns_of(n)}
        of = {n: score.of for n, score in scores.items() if isinstance(score, EmbeddingScore)}
        return models | {name for name, column in of.items() if column in models}

    def described(self) -> dict[str, dict[str, Any]]:
        """By source, the scores that were used: how each came about, a hash of its values, how many are missing."""
        told: dict[str, dict[str, Any]] = {}
        for name, files in sorted(self._files.items()):
            for source in self._run.recipe.sources:
                mine = [f for f, p in zip(files, self._partitions, strict=True) if f is not None and p.source == source]
                if mine:
                    score = self.score(name)
                    model = {"model": score.model} if isinstance(score, AskingScore) else {}
                    values = {"sha256": values_digest(mine), "missing": missing_in(mine), **sums_in(mine)}
                    told.setdefault(source, {})[name] = {"by": score.by, **model, **values}
        return told

    def beside(self) -> list[list[Path]]:
        """For every partition the files of all scores that were used, by name."""
        files = [files for _, files in sorted(self._files.items())]
        return [[path for path in mine if path is not None] for mine in zip(*files, strict=True)] or [
            [] for _ in self._partitions
        ]

    def score(self, name: str) -> Score:
        return self._run.recipe.scores.get(name) or FunctionScore(by="function", function=name)

    def _make(
        self, names: Sequence[str], wanted: Sequence[Sequence[str]], alive: Sequence[NDArray[np.bool_]] | None
    ) -> None:
        """Have the files of these scores, for the partitions that want them."""
        together = []
        for name in names:
            score, request = self.score(name), self._request(name, [name in mine for mine in wanted], alive)
            if isinstance(score, FunctionScore):
                together.append((request, score))
            else:
                self._note(name, MAKERS[score.by](request, score))
        for (request, _), files in zip(together, compute_all(together), strict=True):
            self._note(request.name, files)

    def _request(self, name: str, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None) -> Request:
        embeddings = partial(self._embeddings, name, due, alive)
        return Request(self._run, name, self._partitions, due, alive, self.pictures, embeddings)

    def _note(self, name: str, files: Files) -> None:
        """For `described`: a score's files, of the partitions that asked for it by now."""
        known = self._files.setdefault(name, [None] * len(self._partitions))
        self._files[name] = [new or before for new, before in zip(files, known, strict=True)]

    def _embeddings(self, name: str, due: Sequence[bool], alive: Sequence[NDArray[np.bool_]] | None, of: str) -> Files:
        """For every partition that asks for it, the file with the column of embeddings."""
        found = self.files([{of} if asked else set() for asked in due], alive)
        if not any(found):
            raise ScoreError(f"scores.{name}.of: no score gives a column {of!r}")
        return [paths[0] if paths else None for paths in found]

    @cached_property
    def pictures(self) -> compute.Pictures:
        """Where the images of all samples lie."""
        run = self._run
        for path in (p.task.media for p in self._partitions):
            if path.exists():
                seals.checked(path)
        roots = tuple(source_roots({**run.loaded.raw.get("evaluations", {}), **run.loaded.raw["sources"]}))
        return compute.Pictures(run.media_from, roots, run.loaded.folder, run.recipe.limits.image_pixels)
