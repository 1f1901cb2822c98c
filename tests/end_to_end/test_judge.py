"""A judge behind a real local endpoint that also fails, stalls, drops the line and answers nonsense."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mindvl_data.manifest import read_manifest
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.recipe.judges import PRESETS
from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.judge import Unreadable, read_number, read_object
from tests.mindvl_data.crawl import built, crawl, kept, recipe
from tests.mindvl_data.endpoint import KEY, requests

KEEP = [{"name": "good", "where": "quality >= 3", "missing": "drop"}]


def judge(url: str, **more: Any) -> dict[str, Any]:
    """One metric, whose prompt is new for every test."""
    test = os.environ["PYTEST_CURRENT_TEST"]
    metrics = {"quality": {"prompt": f"How good? ({test})\nText: {{text}}\nA number.", "least": 0, "most": 10}}
    return {
        "by": "judge",
        "endpoint": url,
        "model": "a-model",
        "api_key": "${JUDGE_KEY}",
        "timeout": 2.5,
        "retries": 3,
        "metrics": metrics,
        **more,
    }


def scored(out: Path) -> pl.DataFrame:
    path = max((out / "scores").glob("judge-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return pl.read_parquet(path)


def test_every_way_to_go_wrong_ends_in_a_number_or_a_reason(tmp_path: Path, address: tuple[str, Path]) -> None:
    captions = [
        "one two three",
        "fail 2 then four",
        "busy but five words here",
        "stall first then it goes",
        "drop the line and come again",
        "refuse this",
        "garbage",
        "says I would give it an 8",
        "says 11",
        "says NaN",
        "says 7.",
    ]
    crawl(tmp_path / "crawl.parquet", [{"caption": caption} for caption in captions])
    report = built(tmp_path, scores={"judge": judge(address[0])}, filters=KEEP)
    table = scored(report.out)
    assert table["quality"].to_list() == [3, 4, 5, 5, 6, None, None, None, None, None, 7]
    reasons = table["judge_reason"].to_list()
    assert [reason is None for reason in reasons] == [value is not None for value in table["quality"]]
    assert reasons[5].startswith("status 400: not such a picture")
    assert reasons[6].startswith("not a chat completion: <html>")
    assert reasons[7:10] == [
        "quality: not a number: 'I would give it an 8'",
        "quality: 11 is not from 0 to 10",
        "quality: not a number: 'NaN'",
    ]
    assert kept(report) == {"0", "1", "2", "3", "4", "10"}
    # Tokens of all answers that were had, and none for those that were not.
    assert report.work["prompt_tokens of judge"] == 100 * 9
    assert report.work["completion_tokens of judge"] == 7 * 9
    told = read_manifest(report.out / "only-256").data["scores"]["crawl"]["judge"]
    # Eleven are missing in two columns: the score where there is none, the reason where there is one.
    assert {key: value for key, value in told.items() if key != "sha256"} == {
        "by": "judge",
        "model": "a-model",
        "missing": 11,
        "prompt_tokens": 900,
        "completion_tokens": 63,
    }
    assert all(request["images"] == ["data:image/jpeg;base64,"[:22]] for request in requests(address[1]))
    assert not built(tmp_path, scores={"judge": judge(address[0])}, filters=KEEP).work


def test_what_was_answered_is_kept_when_the_rest_is_not(tmp_path: Path, address: tuple[str, Path]) -> None:
    captions = [f"number {i} is here" for i in range(8)] + ["always stalls"]
    crawl(tmp_path / "crawl.parquet", [{"caption": caption} for caption in captions])
    score = judge(address[0], retries=0)
    before = len(requests(address[1]))
    with pytest.raises(ScoreError, match=r"scores\.judge: 1 samples have no answer, the last: no answer after 1 tries"):
        built(tmp_path, scores={"judge": score}, filters=KEEP)
    assert len(requests(address[1])) - before == 9
    report = built(tmp_path, scores={"judge": {**score, "unanswered": "missing"}}, filters=KEEP)
    assert len(requests(address[1])) - before == 10, "only what has no answer is asked again"
    assert "no answer after 1 tries" in scored(report.out)["judge_reason"][8]
    moved = judge(address[0].replace("127.0.0.1", "localhost"), concurrency=2)
    assert not {k for k in built(tmp_path, scores={"judge": moved}, filters=KEEP).work if "ask" in k}


def test_a_changed_question_asks_anew_and_a_changed_threshold_does_not(
    tmp_path: Path, address: tuple[str, Path]
) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": "one two three"}, {"caption": "one two three four"}])
    score = judge(address[0])
    assert built(tmp_path, scores={"judge": score}, filters=KEEP).work["ask judge"] == 2
    stricter = built(tmp_path, scores={"judge": score}, filters=[{**KEEP[0], "where": "quality >= 4"}])
    assert (stricter.work["ask judge"], kept(stricter)) == (0, {"1"})
    score["metrics"]["quality"]["most"] = 9
    assert built(tmp_path, scores={"judge": score}, filters=KEEP).work["ask judge"] == 2


def test_the_key_is_only_ever_a_variables_name(tmp_path: Path, address: tuple[str, Path]) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": "one two three"}])
    report = built(tmp_path, scores={"judge": judge(address[0])}, filters=KEEP)
    for path in report.out.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert "${JUDGE_KEY}" in (report.out / "only-256" / "manifest.json").read_text()
    with pytest.raises(RecipeError, match=r"scores\.judge\.api_key: stands in the recipe"):
        load_recipe(recipe(tmp_path, scores={"judge": judge(address[0], api_key="sk-123")}))
    assert KEY not in repr(load_recipe(recipe(tmp_path, scores={"judge": judge(address[0])})).recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"api_key": None}, "status 401: check api_key"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "scores.judge.endpoint: .* cannot be reached"),
    ],
)
def test_an_endpoint_that_is_not_what_was_said_stops_the_build(
    tmp_path: Path, address: tuple[str, Path], change: dict[str, Any], message: str
) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": "one two three"}])
    with pytest.raises(ScoreError, match=message):
        built(tmp_path, scores={"judge": {**judge(address[0]), **change}}, filters=KEEP)


def test_the_shipped_questions_are_asked_and_read(tmp_path: Path, address: tuple[str, Path]) -> None:
    vector = {name: 3 for name in PRESETS["capabilities"].metrics if name != "style"} | {
        "style": ["comparison", "yes/no"]
    }
    captions = [f"says {json.dumps(vector)}", "says 85"]
    crawl(tmp_path / "crawl.parquet", [{"caption": caption} for caption in captions])
    base = {key: value for key, value in judge(address[0]).items() if key != "metrics"}
    scores = {"mlm": {**base, "preset": "mlm_filter"}, "able": {**base, "preset": "capabilities"}}
    before = len(requests(address[1]))
    wheres = ["coalesce(semantic_understanding, 0) >= 85 or style = 'yes/no, comparison' and counting >= 3"]
    report = built(tmp_path, scores=scores, filters=[{"name": "x", "where": where} for where in wheres])
    assert kept(report) == {"0", "1"}
    asked = Counter(request["prompt"].split("\n")[0] for request in requests(address[1])[before:])
    # MLM-Filter's four metrics are four requests, of which the first that fails is the last; the vector is one.
    assert sum(asked.values()) == 1 + 4 + 2


@pytest.mark.parametrize("text", ["", "eighty", "8 or 9", "1e3", "85%", "-", "8\n9"])
def test_what_is_not_a_number_alone_is_none(text: str) -> None:
    with pytest.raises(Unreadable):
        read_number(text, {"m": PRESETS["mlm_filter"].metrics["caption_text_quality"]})


@pytest.mark.parametrize("text", ["85", " 85 ", "85.", "Score: 85", "85/100", "85.0"])
def test_a_number_may_come_in_the_ways_models_write_one(text: str) -> None:
    assert read_number(text, {"m": PRESETS["mlm_filter"].metrics["caption_text_quality"]}) == {"m": 85}


@pytest.mark.parametrize("text", ["[1]", "{}", '{"style": "odd"}', "```json\n{\n```", '{"counting": true}', "null"])
def test_an_object_that_lacks_or_breaks_a_metric_is_none(text: str) -> None:
    with pytest.raises(Unreadable):
        read_object(text, PRESETS["capabilities"].metrics)


KILLED = """
import sys
from pathlib import Path
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.scores import answers
answers.PART_ANSWERS = 64
build(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_build_asks_again_only_about_what_it_had_not_kept(tmp_path: Path, address: tuple[str, Path]) -> None:
    """SIGKILL among the answers: what was on disk by then is not asked for, nor paid for, twice."""
    count = 600
    crawl(tmp_path / "crawl.parquet", [{"caption": f"killed number {i}"} for i in range(count)])
    scores = {"judge": judge(address[0], concurrency=4)}
    path, out = recipe(tmp_path, scores=scores, filters=KEEP), tmp_path / "out"

    def asked() -> int:
        return sum(request["text"].startswith("killed number") for request in requests(address[1]))

    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(out)])
    while asked() < 200 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before, on_disk = asked(), [pl.read_parquet(part) for part in (out / "scores").rglob("0*.parquet")]
    had = sum(map(len, on_disk))
    assert 64 <= had < before
    report = built(tmp_path, scores=scores, filters=KEEP)
    # Four were perhaps on their way when it was killed, and are noted late.
    assert count - had <= asked() - before <= count - had + 4
    assert scored(report.out)["quality"].to_list() == [3] * count
