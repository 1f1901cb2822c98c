"""Looking at a recipe before it is built: all faults at once, a sample of each source, what the build would take."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from mindvl_data.engines.local import LocalEngine
from mindvl_data.errors import UserError
from mindvl_data.pipeline.checks import Finding, checks, found
from mindvl_data.pipeline.folder import default_folder
from mindvl_data.pipeline.measuring import Looked, Needs, look, needs
from mindvl_data.pipeline.run import Run

if TYPE_CHECKING:
    from mindvl_data.recipe import LoadedRecipe

LOG = logging.getLogger(__name__)
# Without these nothing can be said of a source.
FOUNDATIONS = {"chat_template", "filters", "tokenizer"}


@dataclass(frozen=True)
class CheckReport:
    """What a look at a recipe found. looked: per source its first samples. needs: None where a source has none."""

    out: Path
    findings: Sequence[Finding]
    looked: Mapping[str, Looked]
    needs: Needs | None

    @property
    def sound(self) -> bool:
        """Whether a build would begin."""
        return all(one.state != "error" for one in self.findings)


def check(loaded: LoadedRecipe, out: Path | None = None, workers: int = 1) -> CheckReport:
    """Look at all that a build into `out` needs, and at the first samples of every source; nothing is written.

    Raises BuildError where the build of another recipe lies in the default folder.
    """
    out = out or default_folder(loaded)
    run = Run(loaded, out, LocalEngine(workers), lambda step, done, total, note="": None, dry_run=True, only_looks=True)
    findings = [found(where, one) for where, one in checks(run)]
    faulty = {one.where for one in findings if one.state == "error"}
    if faulty & FOUNDATIONS:
        return CheckReport(out, findings, {}, None)
    looked, seen = _looked(run, [name for name in run.recipe.sources if f"sources.{name}" not in faulty])
    findings += seen
    if not _all_have_samples(run, looked):
        return CheckReport(out, findings, looked, None)
    needed = needs(run, looked)
    return CheckReport(out, [*findings, *_of_needs(out, needed)], looked, needed)


def warn_first(run: Run) -> None:
    """Before the first build in a folder: what its sources' first samples, disk and memory give reason to fear."""
    if (run.out / "samples").exists():
        return
    looked, findings = _looked(run, list(run.recipe.sources))
    if _all_have_samples(run, looked):
        findings += _of_needs(run.out, needs(run, looked))
    for one in findings:
        if one.state != "ok":
            LOG.warning("%s: %s", one.where, one.said)


def _all_have_samples(run: Run, looked: Mapping[str, Looked]) -> bool:
    """Whether there is something of every source to measure."""
    return all(name in looked and looked[name].samples for name in run.recipe.sources)


def _looked(run: Run, names: Sequence[str]) -> tuple[dict[str, Looked], list[Finding]]:
    """The first samples of sources, and what they say; a source that cannot be read is missing."""
    looked: dict[str, Looked] = {}
    findings: list[Finding] = []
    for name in names:
        try:
            looked[name] = look(run, name)
            findings += _of_source(f"sources.{name}", looked[name])
        except (UserError, OSError) as error:
            findings.append(Finding(f"sources.{name}", "error", str(error)))
    return looked, findings


def _of_source(where: str, one: Looked) -> Iterator[Finding]:
    head = f"{one.samples} of the first {one.records} records are samples"
    if one.problems:
        reasons = "; ".join(f"{reason}: {said}" for reason, said in one.problems.items())
        yield Finding(where, "warning" if one.samples else "error", f"{head} ({reasons})")
    elif not one.records:
        yield Finding(where, "error", "the first file has no records")
    if one.unknown:
        columns = ", ".join(one.unknown)
        yield Finding(where, "warning", f"filters name {columns}, which none of the first {one.samples} samples has")


def _of_needs(out: Path, needed: Needs) -> Iterator[Finding]:
    if needed.impossible:
        yield Finding("stages", "warning", f"by what the first samples say: {needed.impossible}")
    fits = needed.disk <= needed.free_disk
    said = f"about {decimal(needed.disk)} in {out}, of {decimal(needed.free_disk)} free"
    yield Finding("disk", "ok" if fits else "warning", said)
    if needed.free_memory is not None:
        fits = needed.memory <= needed.free_memory
        said = f"about {decimal(needed.memory)}, of {decimal(needed.free_memory)} available"
        yield Finding("memory", "ok" if fits else "warning", said if fits else f"{said}: use fewer --workers")
