"""The published recipes: each validates, forecasts what was published, and builds end to end on miniatures."""

from pathlib import Path
from typing import Any

import pytest

from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import build, check, forecast
from mindvl_data.recipe import load_recipe
from tests.end_to_end.miniatures import VARIABLE, miniature

RECIPES = sorted(Path("recipes").glob("*.yaml"))


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in set(VARIABLE.findall(path.read_text())):
        monkeypatch.setenv(name, f"/data/{name}")
    return load_recipe(path)


def forecasts(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    return {made["stage"]: made for made in forecast(loaded(Path("recipes") / f"{name}.yaml", monkeypatch).recipe)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_validates_names_its_references_and_says_what_was_chosen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = loaded(path, monkeypatch).recipe
    check(recipe)
    assert recipe.name == path.stem
    assert "arXiv " in path.read_text()
    assert all(made["packs"] > 0 and made["training"]["device_hours"] > 0 for made in forecast(recipe))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
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
    if path.stem in ("open-qwen2vl", "datacomp-1b", "mindvl"):
        assert dropping


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
