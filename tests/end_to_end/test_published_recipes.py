"""The published recipes: each validates, forecasts what was published, and builds end to end on miniatures."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import build, forecast
from mindvl_data.pipeline.spec import specs
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.filters import rules_of
from mindvl_data.tokenise import TEMPLATES
from mindvl_train.config.loading import load_config
from mindvl_train.loop.run import train
from tests.end_to_end.kits import tables
from tests.end_to_end.miniatures import VARIABLE, miniature

RUNS = sorted(path for path in Path("recipes").glob("*/train*.yaml") if path.parent.name != "quickstart")
RECIPES = sorted({*Path("recipes").glob("*/*.yaml")} - {*Path("recipes").glob("quickstart/*")} - {*RUNS})
KITS = sorted({path.parent for path in RUNS})


def name_of(path: Path) -> str:
    """A recipe's name: its folder's, where it is the only one there."""
    return path.parent.name if path.stem == "recipe" else f"{path.parent.name}-{path.stem}"


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in set(VARIABLE.findall(path.read_text())):
        monkeypatch.setenv(name, f"/data/{name}")
    return load_recipe(path)


def forecasts(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    (path,) = [path for path in RECIPES if name_of(path) == name]
    return {made["stage"]: made for made in forecast(loaded(path, monkeypatch).recipe)}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_it_validates_names_its_references_and_says_what_was_chosen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = loaded(path, monkeypatch).recipe
    rules_of(recipe.filters)
    assert recipe.chat_template in TEMPLATES
    assert recipe.name == name_of(path)
    assert "arXiv " in path.read_text()
    assert all(made["packs"] > 0 and made["training"]["device_hours"] > 0 for made in forecast(recipe))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_it_builds_on_a_miniature_of_every_source(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini = miniature(path, tmp_path, monkeypatch)
    report = build(mini, tmp_path / "out")
    for stage in report.stages:
        manifest = read_manifest(tmp_path / "out" / stage.name)
        assert [problem for _, problems in verify(manifest) for problem in problems] == []
        drawn = manifest.data["mixture"]["sources"]
        if manifest.stage != "holdout":
            assert all(line["actual"]["samples"] > 0 for line in drawn.values()), drawn
    mixed = {name for stage in mini.recipe.stages.values() for name in stage.mixture.sources()}
    assert mixed == set(mini.recipe.sources)
    dropping = {line.step for line in report.funnel if line.step.startswith("filter") and line.entered > line.left}
    if name_of(path) in ("open-qwen2vl", "datacomp-1b", "mindvl"):
        assert dropping
    for run in RUNS:
        if load_config(run).config.name == name_of(path):
            trained(run, mini.recipe.name, tmp_path)


def trained(run: Path, name: str, folder: Path) -> None:
    """Every stage of a run, two steps of a tiny model each, on the sets that were built."""
    config = load_config(run).config
    assert config.data == f"build/{name}"
    changes = [f"data={folder / 'out'}", "model={preset: tiny}", "precision=float32", "answers.samples=1"]
    for stage in config.trained_stages:
        changes += [f"stages.{stage}.until={{steps: 2}}", f"stages.{stage}.global_batch=1"]
    result = train(load_config(run, changes), str(run), folder / "run")
    assert [stage.steps for stage in result.stages] == [2] * len(config.trained_stages)
    assert result.checkpoint.name.endswith(list(config.stages)[-1])


@pytest.mark.parametrize("folder", KITS, ids=lambda path: path.name)
def test_a_kit_has_all_that_its_paper_needs(folder: Path) -> None:
    said = (folder / "README.md").read_text()
    for heading in ("## What it takes", "## What the paper reports", "## What to compare"):
        assert heading in said
    assert tables(folder) in said, "python -m tests.end_to_end.kits"
    command, env = ["bash", str(folder / "download.sh")], {"DRY_RUN": "1", "PATH": "/usr/bin:/bin"}
    dry = subprocess.run(command, env=env, text=True, capture_output=True)
    assert dry.returncode == 0, dry.stderr
    assert re.search(r"\d+(\.\d+)? [TG]B", dry.stdout)


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_a_run_s_manifests_are_sets_of_its_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(path).config
    (recipe,) = [recipe for recipe in RECIPES if name_of(recipe) == config.name]
    sets = {spec.name for spec in specs(loaded(recipe, monkeypatch).recipe)}
    manifests = [each.manifest for stage in config.trained_stages.values() for each in stage.members.values()]
    assert {str(Path(manifest).parent) for manifest in manifests} <= sets
    assert "chosen" in path.read_text()


def test_a_forecast_needs_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLE.findall(" ".join(path.read_text() for path in RECIPES)):
        monkeypatch.delenv(name, raising=False)
    for path in RECIPES:
        result = CliRunner().invoke(app, ["plan", str(path), "--forecast", "--json"])
        assert result.exit_code == 0, result.stderr
        assert all(made["build_core_hours"] > 0 for made in json.loads(result.stdout)["sets"])


def test_open_qwen2vl_forecasts_what_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    best = forecasts("open-qwen2vl", monkeypatch)["pretrain"]
    assert {name: line["samples"] for name, line in best["sources"].items()} == {"ccs": 8_500_000, "hq": 19_900_000}
    assert best["total"]["samples"] == 28_400_000
    assert best["total"]["tokens"] == pytest.approx(5e9, rel=0.005)
    # 220 hours of A100 are published, without a utilisation: between a quarter and a half of the peak.
    hours_at_peak = best["training"]["device_hours"] * best["training"]["utilisation"]
    assert 0.2 < hours_at_peak / 220 < 0.5


@pytest.mark.parametrize(
    ("name", "samples", "tokens"), [("baseline", 3_253_356, 6.25e9), ("balanced", 112_358_849, 2e11)]
)
def test_dcvlm_by_tokens_is_the_same_mixture_as_by_samples(
    name: str, samples: int, tokens: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_samples, by_tokens = (forecasts(f"dcvlm-{name}", monkeypatch)[f"by_{unit}"] for unit in ("samples", "tokens"))
    assert by_samples["total"]["samples"] == pytest.approx(samples, abs=4)
    assert by_samples["total"]["tokens"] == pytest.approx(tokens, rel=0.002)
    for source, line in by_samples["sources"].items():
        assert by_tokens["sources"][source]["samples"] == pytest.approx(line["samples"], rel=0.002)


def test_llava_onevision_forecasts_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    mid = forecasts("llava-onevision-1.5", monkeypatch)["mid"]
    assert mid["total"]["samples"] == 85_000_000
    assert mid["total"]["tokens"] == pytest.approx(64e9, rel=0.02)
    assert 8192 / (mid["total"]["tokens"] / mid["total"]["samples"]) == pytest.approx(11, rel=0.02)
