"""A run's report: its curves are the log's, its answers are read, and it is one page that asks for nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from typer.testing import CliRunner

from mindvl_train.cli import app
from mindvl_train.loop.metrics import read_records
from mindvl_train.report import ReportError, collected, write_report
from mindvl_train.report.curves import MOST_POINTS, curves, evaluations
from mindvl_train.report.warnings import warnings
from tests.browser import Browser, opened_browser
from tests.mindvl_train.short_runs import run_of
from tests.mindvl_train.synthetic import write_run

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    run_of(write_run(folder / "data"), folder / "run")
    return folder / "run"


def step(number: int, **changes: Any) -> dict[str, Any]:
    base = {"event": "step", "step": number, "stage": "sft", "stage_step": number, "stage_steps": 100, "loss": 1.0}
    speed = {"seconds": 1.0, "wait_seconds": 0.0, "imbalance_attention": 1.0, "imbalance_patches": 1.0}
    return base | speed | {"padding_share": 0.0, "lr": {"*": 0.1}, "tokens": 8, "padding": 0} | changes


def test_curves_are_means_of_neighbouring_steps_and_never_span_stages() -> None:
    steps = [step(n, loss=float(n), stage="a" if n <= 500 else "b") for n in range(1, 1001)]
    points = curves(steps, {})["loss"]
    assert len(points) <= MOST_POINTS + 2
    assert all((point["step"] <= 500) == (point["stage"] == "a") for point in points)
    assert points[0]["value"] == pytest.approx(2.5)
    assert curves([step(1, loss=None)], {})["loss"] == []


def test_the_loss_of_a_kind_is_that_of_its_sources_by_their_tokens() -> None:
    sources = {name: {"loss": loss, "loss_tokens": tokens} for name, loss, tokens in (("a", 1.0, 1), ("b", 4.0, 2))}
    made = curves([step(1, sources=sources | {"c": {"loss": 9.0, "loss_tokens": 5}})], {"a": "x", "b": "x", "c": "y"})
    assert [(p["name"], p["value"]) for p in made["kinds"]] == [("x", 3.0), ("y", 9.0)]
    assert [p["name"] for p in made["sources"]] == ["a", "b", "c"]


def test_what_stands_out_is_said() -> None:
    waiting = [step(n, wait_seconds=0.5, imbalance_patches=2.0, padding_share=0.3) for n in range(30)]
    records = [
        *waiting,
        {"event": "skipped", "step": 3, "stage": "sft", "why": "the loss is no number on packs 7"},
        {"event": "evaluation", "step": 0, "stage": "", "loss": 1.0},
        {"event": "evaluation", "step": 9, "stage": "sft", "loss": 1.5},
        {"event": "stage", "step": 9, "stage": "sft", "unreached": {"vision": 3}},
    ]
    said = " ".join(warnings(records))
    for part in ("packs 7", "50% of the time", "2.00 × the average patches", "30% of the tokens are padding"):
        assert part in said
    for part in ("ends where it began", "held-out loss rose", "no gradient reached 3 tensors of vision"):
        assert part in said
    assert list(warnings([step(n, loss=1.0 - n / 100) for n in range(30)])) == []


def test_every_checkpoint_answers_the_same_questions(run: Path) -> None:
    records = read_records(run / "metrics.jsonl")
    data = collected("run", records, lambda ids: " ".join(map(str, ids)))
    asked = [[one["sample"] for one in record["answers"]] for record in records if record["event"] == "answers"]
    assert len(asked) == 1 + len({r["step"] for r in records if r["event"] == "answers" and r["stage"]})
    assert len({tuple(samples) for samples in asked}) == 1
    assert all(len(one["said"]) == len(asked) for one in data["answers"])
    assert [one["after"] for one in evaluations(records)] == ["the beginning", "warmup", "everything"]


def test_a_folder_without_a_run_is_said_to_be_that(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"there is no metrics\.jsonl"):
        write_report(tmp_path)
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 2


def test_a_run_that_is_at_work_has_a_report_too(run: Path, tmp_path: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = next(number for number, line in enumerate(lines) if json.loads(line)["step"] == 10)
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[: last + 1]) + "\n")
    page = write_report(tmp_path, tmp_path / "r.html").read_text()
    assert "at work, or stopped" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        yield found


@pytest.mark.slow
def test_the_page_draws_the_run_and_no_text_of_the_data_runs(browser: Browser, run: Path, tmp_path: Path) -> None:
    vocabulary = {HOSTILE + str(number): number for number in range(300)}
    Tokenizer(WordLevel(vocabulary, unk_token=HOSTILE + "0")).save(str(tmp_path / "tokenizer.json"))
    browser.open(write_report(run, tmp_path / "report.html", tmp_path / "tokenizer.json"))
    assert len(browser.all("#loss svg")) >= 3
    assert len(browser.all("#pace svg")) >= 6
    assert browser.all("#answer-rows table")
    assert "<script>" in browser.one("#answer-rows").text
    browser.choose("#answer-source", "made-up")
    assert browser.run("window.hacked") is None
    assert browser.run("[...document.querySelectorAll('th')].every(one => one.scope)")
    assert browser.run("[...document.querySelectorAll('figure > svg')].every(one => one.getAttribute('aria-label'))")
    assert (browser.requests(), browser.complaints()) == ([], [])
    for dark in (False, True):
        browser.open(tmp_path / "report.html", width=390, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.complaints() == []
