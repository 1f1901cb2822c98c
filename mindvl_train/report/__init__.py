"""A run's report: one HTML file to look at, from its log alone.

metrics.jsonl ── curves, answers ──► data for the page's script (report.js)
              └─ warnings, stages ─► tables in words (report.html)
"""

from pathlib import Path
from typing import Any

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.runtime.page import page, templates
from mindvl_train.loop.metrics import FILE_NAME, read_records, summarise
from mindvl_train.report.answers import Decode, answered, decoder_for
from mindvl_train.report.curves import curves, evaluations
from mindvl_train.report.warnings import warnings

REPORT = "report.html"


class ReportError(UserError):
    """A folder that holds no run to report on."""


def write_report(run: Path, out: Path | None = None, tokenizer: Path | None = None) -> Path:
    """Writes the report of a run, also of one that is at work; where it is.

    Args:
        run: its folder.
        out: the file to write; by default report.html in the folder.
        tokenizer: the `tokenizer.json` that answers are read with; by default the one that the data was built with.

    Raises:
        ReportError: the folder holds no log.
    """
    records = read_records(run / FILE_NAME)
    if not records:
        raise ReportError(f"{run}: there is no {FILE_NAME} in it, or nothing was logged yet; give the folder of a run")
    decode, note = decoder_for(run, tokenizer)
    data = collected(run.name, records, decode) | {"note": note}
    body = templates(__name__).get_template("report.html").render(**data)
    script = (Path(__file__).parent / "report.js").read_text(encoding="utf-8")
    path = out or run / REPORT
    atomic.write_text(path, page(f"{run.name}: run report", body, data, script))
    return path


def collected(name: str, records: list[dict[str, Any]], decode: Decode) -> dict[str, Any]:
    """All that the page shows, as what JSON can hold.

    Args:
        name: of the run.
        records: of its log, in order.
        decode: ids → text.
    """
    begun = next((record for record in records if record["event"] == "run"), {})
    kinds: dict[str, str] = begun.get("kinds", {})
    steps = [record for record in records if record["event"] == "step"]
    stages = list(dict.fromkeys(record["stage"] for record in steps))
    sources = sorted({source for record in steps for source in record.get("sources", {})})
    return {
        "name": name,
        "facts": _facts(begun),
        "stages": stages,
        "sources": sources,
        "kinds": kinds,
        "done": [vars(stage) for stage in summarise(records)],
        "unfinished": _unfinished(steps, {record["stage"] for record in records if record["event"] == "stage"}),
        "warnings": list(warnings(records)),
        "curves": curves(steps, kinds),
        "evaluations": evaluations(records),
        "answers": answered(records, decode),
    }


def _facts(begun: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run says of itself at its beginning."""
    named = ("parameters", "device", "ranks", "mesh", "torch", "threads")
    found = [(name, begun[name]) for name in named if name in begun]
    kernels = ", ".join(f"{operation} {name}" for operation, name in begun.get("kernels", {}).items())
    facts = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in found]
    return [*facts, *([("kernels", kernels)] if kernels else [])]


def _unfinished(steps: list[dict[str, Any]], ended: set[str]) -> dict[str, Any] | None:
    """The stage that the log ends in, if it has not ended."""
    last = steps[-1] if steps else None
    return last if last and last["stage"] not in ended else None
