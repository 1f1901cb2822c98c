"""What a build, a plan or a check came to, as people and programs read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindvl_data.errors import UserError
from mindvl_data.inspect import REPORT
from mindvl_data.runtime.terminal import errors, open_console, print_json, shown

if TYPE_CHECKING:
    from mindvl_data.pipeline import BuildReport, CheckReport

# After builds of more samples a report is written when it is asked for.
MOST_REPORTED = 1_000_000


def show_funnel(error: UserError) -> None:
    """What became of the samples before a build or plan failed, on standard error."""
    if error.funnel:
        from mindvl_data.inspect import stages as tables

        errors.print(tables.funnel([line.as_dict() for line in error.funnel]), "")


def as_data(found: CheckReport) -> dict[str, Any]:
    """What a look found, as data."""
    samples = {
        name: {
            "sample": one.described,
            "tokens": one.tokens,
            "rendered": [{"text": text, "learnt": learnt} for text, learnt in one.rendered],
            "size": one.size and one.size.model_dump(),
        }
        for name, one in found.looked.items()
    }
    needs = found.needs and found.needs._asdict()
    findings = [one._asdict() for one in found.findings]
    return {"sound": found.sound, "findings": findings, "sources": samples, "needs": needs}


def write_page(made: BuildReport) -> Path | None:
    """The report of a build of up to a million samples; one that is there stays where nothing has changed."""
    if made.urls:
        return None
    path = made.out / REPORT
    unchanged = path.exists() and all(stage.state == "up to date" for stage in made.stages)
    if unchanged or sum(line.entered for line in made.funnel if line.step == "scan") > MOST_REPORTED:
        return path if unchanged else None
    from mindvl_data.inspect import report as reports

    try:
        return reports.write_report(str(made.out), path)
    except (UserError, OSError) as error:
        # The data set is finished and sound: that nobody can look at it yet does not make the build a failure.
        errors.print(f"no report: {error}", markup=False, highlight=False, soft_wrap=True)
        return None


def show_build(report: BuildReport, as_json: bool, written: Path | None = None) -> None:
    """A build or a plan as tables, or as JSON; written: the page to look at."""
    if as_json:
        estimates = {name: estimate.__dict__ for name, estimate in report.estimates.items()}
        stages = [
            {"name": s.name, "state": s.state, "manifest": shown(s.manifest), **dict(s.data)} for s in report.stages
        ]
        head = {"out": shown(report.out), "urls": report.urls, "work": dict(report.work), "report": shown(written)}
        print_json(head | {"warnings": [*report.warnings], "estimates": estimates, "stages": stages})
        return
    from mindvl_data.inspect import stages as tables

    console = open_console()
    sets = [(stage.name, stage.data) for stage in report.stages]
    console.print(tables.funnel([line.as_dict() for line in report.funnel]), "")
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow")
    console.print(tables.mixtures(sets), "")
    console.print(tables.overview(sets), "")
    for stage in report.stages:
        for line in stage.data["funnel"]:
            if line["step"] == "fit" and line["reasons"]:
                why = ", ".join(f"{count} {reason}" for reason, count in line["reasons"].items())
                console.print(f"{stage.name}: {why} of {line['source']} (see ledger/fit-{stage.name}.parquet)")
    for name, estimate in report.estimates.items():
        console.print(
            f"{name}: text tokens estimated from {estimate.tokenised:,} of {estimate.samples:,} samples, "
            f"± {estimate.error:.2%} at 95 %"
        )
    if all(stage.state == "up to date" for stage in report.stages):
        console.print("Nothing has changed: no work was done.")
    made = [(stage.state, shown(stage.manifest)) for stage in report.stages if stage.manifest]
    page = [("report", shown(written))] if written else []
    for state, place in [*made, *page]:
        console.print(f"{state:>10}  {place}", soft_wrap=True)
    if first := next((stage.manifest for stage in report.stages if stage.manifest), None):
        console.print(f"\nNext: python -m mindvl_data show {shown(first)}", soft_wrap=True)
