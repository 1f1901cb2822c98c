"""A share that capabilities and styles choose, through a whole build."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mindvl_data.recipe import RecipeError, load_recipe
from tests.mindvl_data.crawl import built, crawl, dropped, kept, recipe, uid

RULE = {"name": "rich", "by": {"capabilities": ["space", "logic"], "styles": "style"}, "share": 0.5}


def test_capabilities_choose_in_turns_and_every_drop_says_why(tmp_path: Path) -> None:
    # The case of test_round_robin, with columns of the data.
    space, logic = [5, 4, 3, 0, 0, 0, 2, 0], [5, 0, 0, 4, 3, 0, 0, 1]
    style = ["a"] * 6 + ["b", "b"]
    rows = [{"space": s, "logic": g, "style": t} for s, g, t in zip(space, logic, style, strict=True)]
    crawl(tmp_path / "crawl.parquet", rows)
    report = built(tmp_path, select=[{**RULE, "share": 0.75}])
    assert kept(report) == {"0", "1", "3", "4", "6", "7"}
    why = "rich: 6 of 8 stay, by 2 capabilities and their styles"
    assert dropped(report, "dedup") == {"2": why, "5": why}
    steps = {line["step"]: line["reasons"] for line in report.stages[0].data["funnel"]}
    assert steps["select: rich"] == {"not_selected": 2}
    assert not built(tmp_path, select=[{**RULE, "share": 0.75}]).work


def test_a_scores_name_stands_for_its_numbers_and_the_manifest_names_it(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{} for _ in range(4)])
    judged = {"uid": [uid(i) for i in range(4)], "space": [1, 2, 0, 0], "logic": [0, 0, 3, 1]}
    judged["style"] = [["yes/no", "comparison"], ["yes/no"], ["yes/no"], ["comparison"]]
    pl.DataFrame(judged).write_parquet(tmp_path / "judged.parquet")
    columns = {name: name for name in ("space", "logic", "style")}
    scores: dict[str, Any] = {"able": {"by": "joined", "path": "judged.parquet", "columns": columns}}
    rule = {**RULE, "by": {"capabilities": "able", "styles": "style", "origin": None}}
    report = built(tmp_path, scores=scores, select=[rule])
    # One each; of both what is comparison comes first, the rarer style or the first by name.
    assert kept(report) == {"0", "3"}
    # Named by this rule alone.
    assert report.stages[0].data["scores"]["crawl"]["able"]["by"] == "joined"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capabilities": "able"}, "select.0.by.capabilities: there is no score 'able'; or give a list"),
        ({"capabilities": ["spice"]}, "select.0.by.capabilities.0: there is no column 'spice' in any sample"),
        ({"capabilities": ["style"]}, "select.0.by.capabilities.0: 'style' is String, not a number to be the best by"),
        ({"capabilities": []}, "select.0.by.capabilities"),
        ({"styles": "stile"}, "select.0.by.styles: there is no column 'stile'"),
    ],
)
def test_a_rule_that_cannot_be_is_named_by_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    crawl(tmp_path / "crawl.parquet", [{"space": 1, "logic": 2, "style": "a"}])
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, select=[{**RULE, "by": {**RULE["by"], **change}}])  # type: ignore[dict-item]


def test_a_judges_preset_gives_fourteen_capabilities(tmp_path: Path) -> None:
    able = {"by": "judge", "endpoint": "http://localhost:1/v1", "model": "m", "preset": "capabilities"}
    rule = {**RULE, "by": {"capabilities": "able", "styles": "style"}}
    loaded = load_recipe(recipe(tmp_path, scores={"able": able}, select=[rule])).recipe
    found = loaded.capabilities_of(loaded.select[0])
    assert len(found) == 14
    assert '"style"' not in found
