"""Diff: what changed between two manifests, and nothing else."""

import json
from pathlib import Path

from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.inspect.changes import changes
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART


def test_a_manifest_does_not_differ_from_itself(quickstart: BuildReport) -> None:
    data = quickstart.stages[0].data
    assert changes(data, data) == {}


def test_a_changed_recipe_shows_where_it_was_felt(quickstart: BuildReport, tmp_path: Path) -> None:
    loaded = load_recipe(QUICKSTART / "recipe.yaml", ["filters.1.where=text_chars >= 30", "seed=8"])
    report = build(loaded, tmp_path / "out", dry_run=True)
    found = changes(quickstart.stages[0].data, report.stages[0].data)
    assert ("recipe.seed", 7, 8) in found["recipe"]
    assert ("recipe.filters.1.where", "text_chars >= 3", "text_chars >= 30") in found["recipe"]
    before = dict((path, value) for path, value, _ in found["funnel"])
    assert before["funnel.filter: says something · captions.out"] == 150
    assert any(path.startswith("mixture.sources.captions") for path, _, _ in found["mixture"])
    assert "tokenizer" not in found


def test_two_recipes_differ_where_they_say_other_things(tmp_path: Path) -> None:
    text = (QUICKSTART / "recipe.yaml").read_text()
    more = text.replace("filters:\n", "filters:\n  - {name: first, where: 'width > 1'}\n").replace("seed: 7", "seed: 8")
    (tmp_path / "b.yaml").write_text(more)
    result = CliRunner().invoke(app, ["diff", str(QUICKSTART / "recipe.yaml"), str(tmp_path / "b.yaml"), "--json"])
    assert json.loads(result.stdout)["changes"] == [["seed", 7, 8], ["filters.first.where", None, "width > 1"]]
    same = CliRunner().invoke(app, ["diff", str(QUICKSTART / "recipe.yaml"), str(QUICKSTART / "recipe.yaml")])
    assert "say the same" in same.stdout
