"""The report of a build: what it collects, what it warns of, and that it is one file which asks for nothing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindvl_data.errors import UserError
from mindvl_data.inspect.report import collected, columns, report, sets, write_report
from mindvl_data.inspect.report.histograms import bin_edges
from mindvl_data.inspect.report.samples import turns
from mindvl_data.inspect.report.warnings import warnings
from mindvl_data.pipeline import BuildReport
from tests.mindvl_data.inspect.report.hostile import FILE, SCRIPT, hostile


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def data(attacked: BuildReport) -> dict[str, Any]:
    return collected(sets.subject(str(attacked.out)))


def test_a_report_says_of_every_sample_what_became_of_it(data: dict[str, Any]) -> None:
    states = {sample["place"].rpartition("#")[2]: sample["state"] for sample in data["samples"]}
    dropped = {number: state for number, state in states.items() if state != "kept"}
    assert set(dropped) - {"3", "4"} <= {"0", "1", "2"}
    assert (dropped["2"], dropped["4"]) == ("contaminated", "filtered: words enough")
    assert dropped["3"].startswith("filtered: clip ")
    assert sorted(dropped[number] for number in dropped if number in "01") == ["duplicate"]
    assert len(states) == 12
    assert data["states"][0] == "kept"


def test_a_duplicate_stands_beside_what_stayed_and_a_contaminated_one_beside_the_evaluations(
    data: dict[str, Any],
) -> None:
    by_state = {sample["state"]: sample for sample in data["samples"]}
    stayed = by_state["duplicate"]["like"]
    assert stayed["source"] == "crawl"
    assert stayed["id"] != by_state["duplicate"]["id"]
    # The same bytes are one thumbnail.
    assert stayed["pictures"] == by_state["duplicate"]["pictures"]
    assert by_state["contaminated"]["like"]["source"] == "exam"
    assert by_state["contaminated"]["like"]["turns"] == [["caption", f"[image]{SCRIPT}"]]


def test_what_filters_compare_has_a_histogram_with_the_threshold(data: dict[str, Any]) -> None:
    by_label = {one["label"]: one for one in data["histograms"]}
    assert [mark["value"] for mark in by_label["clip"]["thresholds"]] == [0.1]
    assert [mark["value"] for mark in by_label["spaced_words"]["thresholds"]] == [3]
    (clip,) = by_label["clip"]["sources"]
    # The one below the threshold, a duplicate, a contaminated one and one of few words.
    assert (sum(clip["kept"]), sum(clip["dropped"])) == (8, 4)
    assert {"tokens (of what was drawn)", "pixels", "images", "turns"} <= by_label.keys()


def test_a_filter_that_counts_words_is_warned_of_where_a_script_has_none(data: dict[str, Any]) -> None:
    assert any("counts words" in line and "“words enough”" in line for line in data["warnings"])


def test_a_report_is_one_small_file_that_names_no_other(attacked: BuildReport, tmp_path: Path) -> None:
    path = write_report(str(attacked.out), tmp_path / "report.html")
    text = path.read_text()
    assert path.stat().st_size < 10_000_000
    assert text == report(sets.subject(str(attacked.out))), "the same build gives the same report"
    # What the policy forbids anyway is not even tried.
    assert not re.findall(r"<script[^>]* src|<link[^>]* href=\"http|@import", text)
    assert SCRIPT not in text
    assert FILE not in text
    assert str(tmp_path) not in text, "nothing of this machine is in it"


def test_a_manifest_by_itself_has_a_report_without_samples(attacked: BuildReport, tmp_path: Path) -> None:
    alone = tmp_path / "kept"
    alone.mkdir()
    for name in ("manifest.json", "manifest.json.sha256"):
        shutil.copy(attacked.out / "only-512" / name, alone / name)
    data = collected(sets.subject(str(alone / "manifest.json")))
    assert (data["samples"], data["histograms"]) == ([], [])
    assert data["packs"]["only-512"]["note"]
    assert "not where this manifest is" in write_report(str(alone)).read_text()


def test_what_is_no_build_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        sets.subject(str(tmp_path))


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("least(width, height) >= 32 and aspect <= 20", {("least(width, height)", 32), ("aspect", 20)}),
        ("0.3 < clip or not words <= 5", {("clip", 0.3), ("words", 5)}),
        ("words between 3 and 9", {("words", 3), ("words", 9)}),
        ("language in ('en', 'de')", set()),
        ("width > height", set()),
    ],
)
def test_thresholds_are_what_is_compared_with_a_constant(expression: str, found: set[tuple[str, float]]) -> None:
    assert {(t.label, t.value) for t in columns._compared("rule", expression)} == found


def test_bins_suit_what_is_counted() -> None:
    edges, log = bin_edges(np.array([1.0, 2, 3, 3]))
    assert (edges.tolist(), log) == ([0.5, 1.5, 2.5, 3.5], False)
    values = np.array([1.0, 10, 100_000])
    edges, log = bin_edges(values)
    assert log
    assert np.histogram(values, edges)[0].sum() == 3
    assert bin_edges(np.array([0.25]))[0][0] == 0.25


def test_long_texts_are_cut_and_images_have_their_place() -> None:
    parts = [{"turn": 0, "role": "user", "text": None}, {"turn": 0, "role": "user", "text": "abcdef"}]
    assert turns(parts, 3) == [["user", "[image]abc…"]]


def _set(**changes: Any) -> dict[str, Any]:
    line = {"source": "a", "epochs": 1.0, "target": 0.5, "actual": 0.5}
    base = {
        "name": "only-512",
        "seq_len": 512,
        "packs": 90,
        "step": 8,
        "fill": 0.99,
        "tokens": 1000,
        "loss_tokens": 400,
    }
    return {
        **base,
        "balance": {"attention": 1.1, "patches": 1.1},
        "mixture": [line | changes.pop("line", {})],
        **changes,
    }


@pytest.mark.parametrize(
    ("one", "funnel", "said"),
    [
        (_set(), [], []),
        (_set(line={"epochs": 5.2}), [], ["a is used for 5.2 epochs"]),
        (_set(line={"actual": 0.4}), [], ["a has 40.0% of the mixture for a target of 50.0%"]),
        (_set(fill=0.5), [], ["packs are 50% padding"]),
        (_set(balance={"attention": 2.5, "patches": 1.0}), [], ["costs 2.5 × the average in attention"]),
        (_set(loss_tokens=2), [], ["only 0.20% of the tokens"]),
        (_set(), [("filter: wide", 90, 50)], ["“filter: wide” dropped 44% of a"]),
        (_set(), [("filter: best", 90, 30)], []),
        (_set(), [("draw", 90, 3)], []),
        (_set(), [("dedup: image", 90, 20)], ["Deduplication by image took 78% of a"]),
        (_set(), [("filter: wide", 90, 0)], ["Nothing is left of a", "dropped 100% of a"]),
    ],
)
def test_warnings_are_of_what_stands_out(one: dict[str, Any], funnel: list[Any], said: list[str]) -> None:
    lines = [{"step": step, "source": "a", "in": i, "out": o, "reasons": {"x": i - o}} for step, i, o in funnel]
    recipe = {"filters": [{"name": "best", "top": 0.3, "of": "clip"}]}
    found = warnings(recipe, [one], lines, [])
    assert len(found) == len(said), found
    assert all(words in line for words, line in zip(said, found, strict=True))


def test_of_very_many_samples_a_random_share_is_looked_at(
    attacked: BuildReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MOST_SAMPLES", 6)
    data = collected(sets.subject(str(attacked.out)))
    assert 0 < data["share"] < 1
    assert 0 < len(data["samples"]) < 12
    ids = [bytes.fromhex(sample["id"]) for sample in data["samples"]]
    assert max(ids)[0] < 256 * data["share"] + 1


def test_a_built_set_is_reported_unless_that_is_not_wanted(attacked: BuildReport, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mindvl_data.cli import app

    recipe, path = attacked.out.parent / "recipe.yaml", attacked.out / "report.html"
    path.unlink(missing_ok=True)
    CliRunner().invoke(app, ["build", str(recipe), "--out", str(attacked.out), "--no-report"])
    assert not path.exists()
    told = CliRunner().invoke(app, ["build", str(recipe), "--out", str(attacked.out), "--json"])
    assert json.loads(told.stdout)["report"].endswith("report.html")
    before = path.stat().st_mtime_ns
    CliRunner().invoke(app, ["build", str(recipe), "--out", str(attacked.out)])
    assert path.stat().st_mtime_ns == before, "nothing has changed"
    result = CliRunner().invoke(app, ["report", str(attacked.out / "only-512"), "--out", str(tmp_path / "one.html")])
    assert (result.exit_code, (tmp_path / "one.html").exists()) == (0, True)
