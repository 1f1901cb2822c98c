"""A look at a recipe: all of its faults at once, what becomes of a sample, and what a build would take."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.errors import UserError
from mindvl_data.pipeline import BuildReport, CheckReport, build, check
from mindvl_data.pipeline import checking as module
from mindvl_data.recipe import load_recipe
from mindvl_data.runtime.memory import available
from tests.conftest import QUICKSTART
from tests.mindvl_data import endpoint


def checked(recipe: Path, *overrides: str) -> CheckReport:
    return check(load_recipe(recipe, overrides), recipe.parent / "out")


def errors(report: CheckReport) -> dict[str, str]:
    return {one.where: one.said for one in report.findings if one.state == "error"}


def test_a_sound_recipe_shows_what_is_learnt_of_each_source_and_writes_nothing(recipe_folder: Path) -> None:
    before = sorted(recipe_folder.rglob("*"))
    report = checked(recipe_folder / "recipe.yaml")
    assert report.sound
    assert {one.state for one in report.findings} == {"ok"}
    assert list(report.looked) == ["captions", "vqa", "documents", "text"]
    learnt = "".join(text for text, loss in report.looked["captions"].rendered if loss)
    assert learnt == "Zucca, clip art about food.<|endoftext|>"
    assert sorted(recipe_folder.rglob("*")) == before


def test_what_a_build_would_take_is_near_what_it_takes(recipe_folder: Path, quickstart: BuildReport) -> None:
    report = checked(recipe_folder / "recipe.yaml")
    assert report.needs is not None
    sizes = {name: one.size for name, one in report.looked.items()}
    scanned = {line.source: line.entered for line in quickstart.funnel if line.step == "scan"}
    for name, size in sizes.items():
        assert size is not None
        assert size.samples == pytest.approx(scanned[name], rel=0.5)
    sets = [stage.manifest for stage in quickstart.stages if stage.manifest]
    written = {path.parent.name: sum(shard.stat().st_size for shard in path.parent.glob("*.arrow")) for path in sets}
    for made in report.needs.sets:
        assert made["disk"] == pytest.approx(written[made["name"]], rel=0.6)


def test_every_fault_is_said_at_once_by_its_yaml_path(recipe_folder: Path) -> None:
    recipe = recipe_folder / "recipe.yaml"
    found = errors(
        checked(
            recipe,
            "tokenizer=tokeniser.json",
            "chat_template=qwen2vl",
            "filters.0.where=width >",
            "sources.text.format=mesages",
            "sources.vqa.path=data/none-*.parquet",
            "evaluations={exam: {format: messages, path: nowhere.jsonl, kind: exam}}",
        )
    )
    assert found["tokenizer"].endswith("did you mean 'tokenizer.json'?")
    assert found["chat_template"].endswith("did you mean 'qwen2-vl'?")
    assert "filters.0.where" in found["filters"]
    assert "did you mean 'messages'" in found["sources.text"]
    assert found["sources.vqa"].startswith("sources.vqa.path: data/none-*.parquet: no file matches")
    assert found["evaluations.exam"].startswith("evaluations.exam.path: nowhere.jsonl: no such file")


def test_a_build_stops_at_an_evaluation_set_that_is_not_there_before_it_scans(recipe_folder: Path) -> None:
    loaded = load_recipe(
        recipe_folder / "recipe.yaml", ["evaluations={exam: {format: messages, path: nowhere.jsonl, kind: exam}}"]
    )
    with pytest.raises(UserError, match=r"evaluations.exam.path: nowhere.jsonl"):
        build(loaded, recipe_folder / "out")
    assert not (recipe_folder / "out" / "samples").exists()


def test_columns_that_no_sample_has_and_records_that_are_none_are_doubts(recipe_folder: Path) -> None:
    text = recipe_folder / "data" / "text.jsonl"
    text.write_text("{broken\n" + text.read_text())
    report = checked(recipe_folder / "recipe.yaml", "filters.0.where=clpi > 3")
    said = [one.said for one in report.findings if one.state == "warning" and one.where == "sources.text"]
    assert "malformed_record: 1, for example" in said[0]
    assert "filters name clpi" in said[1]


def test_an_empty_source_is_an_error(recipe_folder: Path) -> None:
    (recipe_folder / "data" / "text.jsonl").write_text("")
    assert errors(checked(recipe_folder / "recipe.yaml"))["sources.text"] == "the first file has no records"


def test_a_disk_that_is_too_small_is_said_by_check_and_before_a_first_build(
    recipe_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "needs", _grown(module.needs))
    (disk,) = [one for one in checked(recipe_folder / "recipe.yaml").findings if one.where == "disk"]
    assert disk.state == "warning"
    with caplog.at_level(logging.WARNING):
        build(load_recipe(recipe_folder / "recipe.yaml"), recipe_folder / "out")
    assert "disk: about" in caplog.text


def _grown(needs: Any) -> Any:
    return lambda *given: needs(*given)._replace(disk=10**18)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux says it there")
def test_memory_that_is_there_is_known() -> None:
    found = available()
    assert found is not None
    assert 0 < found < 1 << 50


JUDGE = "scores={j: {by: judge, endpoint: '%s', model: %s, api_key: '${JUDGE_KEY}', preset: mlm_filter}}"
NAMED = "filters=[{name: good, where: semantic_understanding > 3}]"


def test_endpoints_are_asked_whether_they_are_there_and_have_the_model(
    recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_folder / "recipe.yaml"

    def said(url: str, model: str = "a-judge") -> SimpleNamespace:
        report = checked(recipe, JUDGE % (url, model), NAMED)
        (one,) = [one for one in report.findings if one.where == "scores.j"]
        return SimpleNamespace(state=one.state, said=one.said)

    monkeypatch.setenv("JUDGE_KEY", endpoint.KEY)
    with endpoint.running(tmp_path / "judge") as url:
        assert said(url).said == f"{url} answers, and has a-judge"
        assert said(url, "a-jugde").said.endswith("did you mean 'a-judge'?")
        monkeypatch.setenv("JUDGE_KEY", "another-key")
        assert said(url).said.endswith("status 401: check api_key")
    gone = said(url)
    assert (gone.state, "cannot be reached" in gone.said) == ("error", True)


def test_the_command_says_it_for_people_and_programs(recipe_folder: Path) -> None:
    recipe = str(recipe_folder / "recipe.yaml")
    result = CliRunner().invoke(app, ["check", recipe, "--json"])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["sound"]) == (0, True)
    assert told["sources"]["vqa"]["rendered"][-2:] == [
        {"text": "<|im_end|>", "learnt": True},
        {"text": "\n", "learnt": False},
    ]
    assert "Next: python -m mindvl_data build" in CliRunner().invoke(app, ["check", recipe]).stdout
    wrong = CliRunner().invoke(app, ["check", recipe, "--set", "sources.text.path=none", "--json"])
    assert (wrong.exit_code, json.loads(wrong.stdout)["sound"]) == (1, False)
    broken = CliRunner().invoke(app, ["check", recipe, "--set", "stagse=1", "--json"])
    assert (broken.exit_code, "did you mean" in json.loads(broken.stdout)["findings"][0]["said"]) == (1, True)


def test_clips_are_reckoned_as_the_build_counts_them(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(QUICKSTART, tmp_path / "quickstart"))
    recipe = folder / "recipe-video.yaml"
    for how in ([], ["processor=qwen3-vl", "chat_template=chatml"]):
        looked = checked(recipe, *how).looked["videos"]
        counted = build(load_recipe(recipe, how), tmp_path / f"built-{len(how)}", dry_run=True)
        drawn = counted.stages[0].data["mixture"]["sources"]["videos"]["actual"]
        assert looked.size is not None
        assert looked.size.tokens_per_sample == pytest.approx(drawn["tokens"] / drawn["samples"], rel=0.01)
        assert looked.size.vision_tokens_per_sample == pytest.approx(
            drawn["vision_tokens"] / drawn["samples"], rel=0.01
        )
        assert looked.size.images_per_sample == 1
        assert looked.size.image_bytes_per_sample > 1000


def test_clips_that_a_build_would_drop_are_no_samples(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(QUICKSTART, tmp_path / "quickstart"))
    broken = folder / "data" / "videos" / "red-circle-up.mp4"
    broken.write_bytes(b"not a clip")
    report = checked(folder / "recipe-video.yaml")
    (said,) = [one.said for one in report.findings if one.where == "sources.videos" and one.state == "warning"]
    assert said.startswith("23 of the first 24 records are samples (unreadable_video: 1, for example ")
