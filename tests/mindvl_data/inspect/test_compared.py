"""Two builds: what only one of them draws, and what became of it in the other."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.errors import UserError
from mindvl_data.inspect.compared import NOT_DRAWN, NOT_THERE, compared, only_in, side
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart with a stricter filter, a smaller budget, and one source less in its largest stages."""
    changed = [
        "filters.1.where=text_chars >= 30",
        "stages.multitask.mixture={captions: 0.5, documents: 0.5}",
        "stages.sft.mixture={documents: 0.9, text: 0.1}",
    ]
    out = tmp_path_factory.mktemp("other") / "quickstart"
    return build(load_recipe(QUICKSTART / "recipe.yaml", changed), out).out


def test_each_sample_of_one_side_has_its_fate_on_the_other(quickstart: BuildReport, other: Path) -> None:
    a, b = side(str(quickstart.out)), side(str(other))
    only = only_in(a, b)
    assert set(only["sample_id"]) == set(a.drawn["sample_id"]) - set(b.drawn["sample_id"])
    why = {source: set(group["why"]) for (source,), group in only.group_by("source")}
    assert why["vqa"] >= {NOT_DRAWN}
    assert "filtered: says something" in why["captions"]
    found = compared(a, b)
    assert found["both"] + found["only_a"]["samples"] == len(a.drawn)
    assert found["both"] + found["only_b"]["samples"] == len(b.drawn)
    assert sum(line["samples"] for line in found["only_a"]["groups"]) == found["only_a"]["samples"]


def test_a_build_does_not_differ_from_itself(quickstart: BuildReport) -> None:
    mine = side(str(quickstart.out))
    found = compared(mine, mine)
    assert (found["only_a"]["samples"], found["only_b"]["samples"], found["other_draws"]) == (0, 0, 0)


def test_samples_of_a_source_that_the_other_has_not_are_said_to_be_that(
    quickstart: BuildReport, tmp_path: Path
) -> None:
    text = "{name: x, tokenizer: %s, sources: {text: {format: messages, path: %s, kind: text}}, stages: %s}"
    stages = "{one: {seq_len: 512, budget: {epochs: 1}, mixture: {text: 1}}}"
    (tmp_path / "r.yaml").write_text(text % (QUICKSTART / "tokenizer.json", QUICKSTART / "data" / "text.jsonl", stages))
    alone = build(load_recipe(tmp_path / "r.yaml"), tmp_path / "out")
    only = only_in(side(str(quickstart.out)), side(str(alone.out)))
    assert set(only.filter(pl.col("source") != "text")["why"]) == {NOT_THERE}


def test_the_command_says_it_and_a_manifest_without_draws_is_refused(quickstart: BuildReport, other: Path) -> None:
    result = CliRunner().invoke(app, ["diff", "--samples", str(quickstart.out), str(other)])
    assert "Only in A" in result.stdout, result.stderr
    told = CliRunner().invoke(app, ["diff", "--samples", "--json", str(quickstart.out), str(other)])
    assert json.loads(told.stdout)["only_a"]["samples"] > 0
    kept = QUICKSTART.parent.parent / "manifests" / "quickstart" / "sft-2048"
    with pytest.raises(UserError, match="its draws are not beside it"):
        compared(side(str(kept)), side(str(other)))
