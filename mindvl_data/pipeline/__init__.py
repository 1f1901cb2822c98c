"""The build, top to bottom: scan, filter, count, hold out, then for every stage mix, pack, write, manifest.

Each step's output lies in the build folder under the hash of all it depends on: what is there is not done
again, so a killed build goes on where it was and a changed threshold redoes only what follows from it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mindvl_data.engines.local import LocalEngine
from mindvl_data.errors import BuildError, UserError
from mindvl_data.pipeline import publish, record
from mindvl_data.pipeline.assembly import StageResult, embedded_bytes, write_stage
from mindvl_data.pipeline.checking import CheckReport, check, warn_first
from mindvl_data.pipeline.checks import check_first
from mindvl_data.pipeline.folder import default_folder, held_there, opened, sweep
from mindvl_data.pipeline.forecasting import forecast
from mindvl_data.pipeline.funnel import warnings
from mindvl_data.pipeline.prepare import Prepared, prepare
from mindvl_data.pipeline.run import Progress, Run
from mindvl_data.pipeline.spec import Spec, specs
from mindvl_data.pipeline.stage import Planned, Published, plan_stage
from mindvl_data.recipe import LoadedRecipe, Recipe
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime import seals
from mindvl_data.steps.estimate import Estimate

if TYPE_CHECKING:
    from mindvl_data.engines import Engine
    from mindvl_data.pipeline.funnel import FunnelLine
    from mindvl_data.steps.estimate import Estimate

LOG = logging.getLogger(__name__)

__all__ = ["BuildError", "BuildReport", "CheckReport", "Progress", "StageResult", "build", "check", "forecast"]


@dataclass(frozen=True)
class BuildReport:
    """What a build made, or a plan would make.

    work: the tasks each step really did. urls: manifests in a store. warnings: what a person should look at.
    """

    recipe: Recipe
    out: Path
    stages: Sequence[StageResult]
    funnel: Sequence[FunnelLine]
    work: Counter[str]
    estimates: Mapping[str, Estimate]
    urls: Sequence[str] = ()
    warnings: Sequence[str] = ()


def build(
    loaded: LoadedRecipe,
    out: Path | None = None,
    workers: int = 1,
    progress: Progress = lambda step, done, total, note="": None,
    dry_run: bool = False,
    sample: int | None = None,
    store: str | None = None,
    engine: Engine | None = None,
    rehash: bool = False,
) -> BuildReport:
    """Build every stage of a recipe.

    Args:
        loaded: The recipe, as `load_recipe` gives it.
        out: The build folder; by default build/<its name>. With `store` the local folder that stands for that (default:
            `mirror.scratch_of`).
        workers: Processes of this machine, where no `engine` is given.
        progress: Called as steps go on.
        dry_run: All but shards, manifests and ledger.
        sample: Of a dry run: tokenise about so many samples and estimate the others' text tokens.
        store: The URL of a build folder in a store.
        engine: Where tasks run; by default in `workers` processes.
        rehash: Read every source again, whatever its size and times say.

    Returns:
        What was made, or would be, of every stage.

    Raises:
        UserError: What is at fault has its own kind: RecipeError, SourceError, TokeniserError, MixError, MediaError,
            EngineError or BuildError.
    """
    out = (out or mirrors.scratch_of(store)).absolute() if store else out or default_folder(loaded)
    engine = engine or LocalEngine(workers)
    made_anew: set[Path] = set()
    with opened(out, engine.less_memory), _in_store(store, out), engine:
        engine.share(None if store else out, _needed(loaded, store))
        while True:
            try:
                return _build(Run(loaded, out, engine, progress, dry_run, sample, rehash=rehash))
            except seals.DamagedFileError as error:
                if error.path in made_anew:
                    raise BuildError(f"{error.path}: damaged again; is the disk sound? Choose another --out") from error
                LOG.warning("%s: not as it was written; it is made anew", error.path)
                seals.discard(error.path)
                made_anew.add(error.path)


def _needed(loaded: LoadedRecipe, store: str | None) -> list[Path]:
    """Files that tasks read from the recipe's folder; the recipe itself stands for whatever else lies there."""
    recipe = loaded.recipe
    named = [recipe.tokenizer, f"{recipe.tokenizer}/tokenizer.json"]
    named += [source.uids for source in recipe.sources.values() if source.uids]
    places = [place for source in recipe.sources.values() for place in source.path]
    rest = [loaded.path] if store is None or any("://" not in place for place in places) else []
    return [path for path in (loaded.folder / name for name in named) if path.is_file()] + rest


@contextmanager
def _in_store(url: str | None, folder: Path) -> Iterator[None]:
    """The build folder held in the store, too, where it lies in one."""
    if url is None:
        yield
        return
    if url.startswith("hf://"):
        raise BuildError(
            f"--out {url}: a hub would make every file of a build a commit; build into a folder or another store, and "
            "publish a finished set with `export --to datasets` and `hf upload`"
        )
    with mirrors.opened(url, folder, leads=True) as mirror, held_there(mirror):
        mirror.start()
        yield


def _build(run: Run) -> BuildReport:
    loaded, out, dry_run = run.loaded, run.out, run.dry_run
    check_first(run)
    if not dry_run:
        warn_first(run)
    prepared = prepare(run)
    planned = _all_planned(run, prepared)
    # Everything that can be impossible has been found by now; only then is anything written.
    if loaded.recipe.media == "embed":
        sizes = [int(embedded_bytes(prepared, plan).sum()) for plan in planned if isinstance(plan, Planned)]
        publish.check_size(sum(sizes), loaded.recipe.embed_limit)
    if not dry_run:
        record.write_note(run)
        record.write_index(run, prepared)
        record.write_ledger(run, prepared)
    stages = [_result(run, prepared, plan) for plan in planned]
    if not dry_run:
        record.write_uses(run, [stage.name for stage in stages])
        publish.clear(out)
        if run.work:
            sweep(out)
        record.send(run, all(stage.state == "up to date" for stage in stages))
    urls = [stage.manifest for stage in stages if isinstance(stage.manifest, str)]
    said = warnings(prepared.funnel, run.rules)
    return BuildReport(loaded.recipe, out, stages, prepared.funnel, run.work, prepared.estimates, urls, said)


def _all_planned(run: Run, prepared: Prepared) -> list[Planned | Published]:
    """Every set; an error takes along what became of the samples, which is often its reason."""
    try:
        return [_planned(run, prepared, spec, number) for number, spec in enumerate(specs(run.recipe), 1)]
    except UserError as error:
        error.funnel = tuple(prepared.funnel)
        raise


def _planned(run: Run, prepared: Prepared, spec: Spec, number: int) -> Planned | Published:
    run.progress("fit, mix, pack", number - 1, len(specs(run.recipe)))
    planned = plan_stage(run, prepared, spec)
    run.progress("fit, mix, pack", number, len(specs(run.recipe)))
    return planned


def _result(run: Run, prepared: Prepared, plan: Planned | Published) -> StageResult:
    """What becomes of a set: it stays, is written, or would be written by a build that is no dry run."""
    name = plan.spec.name
    if isinstance(plan, Published):
        return StageResult(
            name, "up to date", plan.manifest.data, None if run.dry_run else publish.place_of(plan.manifest)
        )
    return StageResult(name, "planned", plan.data, None) if run.dry_run else write_stage(run, prepared, plan)
