"""One build at work: its folder, its lock, what it has done so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mindvl_data.recipe.scores import AskingScore
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime import seals
from mindvl_data.runtime.mirror import InStore, paths_of
from mindvl_data.sources.files import FingerprintCache, SourceFile, Unread
from mindvl_data.steps.filters import Rule, parse, rules_of
from mindvl_data.steps.scores import names
from mindvl_data.tokenise import ChatTemplate, JinjaTemplate, Tokeniser, load_template, load_tokeniser

if TYPE_CHECKING:
    from mindvl_data.engines import Engine
    from mindvl_data.recipe import LoadedRecipe, Recipe


class Progress(Protocol):
    """Called as a step goes on: how much is done of how much, and what its engine has to say of the rest."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None: ...


@dataclass
class Run:
    """work: counts the tasks that each step really did, what was there already is not in it. used: what this build
    needs of what steps leave in its folder, so that the rest can be told from it. other_ids: the file, and a text of
    it, for which the faster tokenizer library had to be given up. only_looks: nothing is read whole, nothing is kept.
    files: those of the sources, evaluation sets and joined scores that were listed, by YAML path.
    """

    loaded: LoadedRecipe
    out: Path
    engine: Engine
    progress: Progress
    dry_run: bool
    sample: int | None = None
    work: Counter[str] = field(default_factory=Counter)
    used: set[Path] = field(default_factory=set)
    other_ids: dict[str, str] | None = None
    only_looks: bool = False
    rehash: bool = False
    files: dict[str, list[SourceFile]] = field(default_factory=dict)
    _fingerprints: dict[str, FingerprintCache] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @cached_property
    def tokeniser(self) -> Tokeniser:
        return load_tokeniser(self.recipe.tokenizer, self.loaded.folder)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        return rules_of(self.recipe.filters)

    @cached_property
    def expressions(self) -> dict[str, Rule]:
        """What `dedup`, `balance`, `select`, `rewrite` and mixtures name columns in, by YAML path."""
        found: dict[str, str | None] = {f"dedup.{i}.prefer": one.prefer for i, one in enumerate(self.recipe.dedup)}
        for i, one in enumerate(self.recipe.balance):
            found |= {f"balance.{i}.by": one.by, f"balance.{i}.prefer": one.prefer}
        for i, rule in enumerate(self.recipe.select):
            found |= {f"select.{i}.by.styles": rule.by.styles, f"select.{i}.by.origin": rule.by.origin}
            for j, capability in enumerate(self.recipe.capabilities_of(rule)):
                found[f"select.{i}.by.capabilities.{j}"] = capability
        found |= {f"rewrite.{i}.where": one.where for i, one in enumerate(self.recipe.rewrite)}
        for name, stage in self.recipe.stages.items():
            groups = stage.mixture.allocating(f"stages.{name}.mixture")
            scores = {path: group.allocate.score for path, group in groups if group.allocate}
            found |= {path: score for path, score in scores.items() if isinstance(score, str)}
            if stage.curriculum and stage.curriculum.by != "tokens":
                found[f"stages.{name}.curriculum.by"] = stage.curriculum.by
        rules = {place: Rule(place, "", said, None, None, None, "drop") for place, said in found.items() if said}
        for named in rules.values():
            parse(named)
        return rules

    @property
    def naming(self) -> tuple[Rule, ...]:
        """Everything in the recipe that names columns."""
        return (*self.rules, *self.expressions.values())

    @property
    def digest(self) -> bool:
        """Whether images are known by their SHA-256: what is referenced is checked against it whenever it is read."""
        recipe = self.recipe
        alike = any(rule.by != "text" and rule.near is None for rule in (*recipe.dedup, *recipe.decontaminate))
        models = any(isinstance(score, AskingScore) for score in recipe.scores.values())
        return recipe.holdout is not None or recipe.media == "reference" or alike or models or bool(recipe.rewrite)

    @cached_property
    def score_columns(self) -> frozenset[str]:
        """Every column that a score of the recipe, or of the table of functions, can give."""
        scores = self.recipe.scores
        return frozenset({*names(), *(column for name in scores for column in scores[name].columns_of(name))})

    @cached_property
    def template(self) -> ChatTemplate | JinjaTemplate:
        return load_template(self.recipe.chat_template, self.recipe.tokenizer, self.loaded.folder, self.tokeniser)

    def fingerprints(self, name: str) -> FingerprintCache:
        """What files are known by again, kept in the build folder under this name."""
        if name not in self._fingerprints:
            path = self.out / f"{name}.json"
            self._fingerprints[name] = Unread() if self.only_looks else FingerprintCache(path, self.rehash)
        return self._fingerprints[name]

    def bring(self, folder: Path) -> Path:
        """The folder, with all that is sealed in it here, also what only the store has."""
        mirror = mirrors.of(folder)
        if mirror is not None:
            seals_there = [name for name in mirror.below(mirror.name(folder)) if name.endswith(mirrors.SEAL)]
            mirror.together(mirror.look, [self.out / name.removesuffix(mirrors.SEAL) for name in seals_there])
        return folder

    @property
    def media_from(self) -> Path | str:
        """The build folder as images in its `media/` are read: here, or in the store."""
        mirror = mirrors.of(self.out)
        return self.out if mirror is None else mirror.url

    def folder(self, name: str) -> Path:
        path = self.out / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def step(
        self, name: str, function: Callable[[Any], Any], tasks: list[Any], sizes: list[int] | None = None
    ) -> list[Any]:
        """The tasks of one step through the engine, counted, and shown by their sizes in bytes where given."""
        if not tasks:
            return []
        self.work[name] += len(tasks)
        self.progress(name, 0, sum(sizes) if sizes else len(tasks))

        def done(finished: int, of: int, note: str = "") -> None:
            self.progress(name, finished, of, note)

        results = self.engine.run(self.anywhere(function), tasks, done, sizes)
        mirror = mirrors.of(self.out)
        if mirror is not None:
            mirror.refresh([path for task in tasks for path in paths_of(task) if path.is_relative_to(self.out)])
        return results

    def anywhere(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A step's function as it can run on any machine: the files that a task names are there, and sound."""
        on_sound, mirror = seals.OnSoundFiles(function), mirrors.of(self.out)
        return on_sound if mirror is None else InStore(mirror.url, self.out, on_sound)
