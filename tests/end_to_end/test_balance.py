"""Balance through a whole build: over a column, and over clusters of embeddings."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mindvl_data.recipe import RecipeError
from mindvl_data.steps.scores import ScoreError
from tests.mindvl_data.crawl import built, crawl, dropped, kept, uid


def test_groups_of_a_column_are_capped_and_every_drop_says_why(tmp_path: Path) -> None:
    rows = [{"topic": topic, "clip": i / 20} for i, topic in enumerate(["cat"] * 9 + ["dog"] * 4 + [None] * 3)]
    crawl(tmp_path / "crawl.parquet", rows)
    rule = {"name": "topics", "by": "topic", "cap": 3, "prefer": "clip"}
    report = built(tmp_path, balance=[rule])
    assert kept(report) == {"6", "7", "8", "10", "11", "12", "13", "14", "15"}
    assert dropped(report, "dedup")["0"] == "topics: topic is cat: 3 of 9 stay"
    steps = {line["step"]: line["reasons"] for line in report.stages[0].data["funnel"]}
    assert steps["balance: topics"] == {"balanced": 7}
    by_hash = built(tmp_path, balance=[{"name": "topics", "by": "topic", "share": 6 / 13}])
    topics = Counter(rows[int(key)]["topic"] for key in kept(by_hash))
    assert topics == {"cat": 3, "dog": 3, None: 3}
    assert not built(tmp_path, balance=[{"name": "topics", "by": "topic", "share": 6 / 13}]).work


def test_concepts_are_clusters_of_embeddings_balanced_by_inverse_frequency(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    concepts = [0] * 60 + [1] * 20 + [2] * 10
    vectors = np.eye(3)[concepts] + 0.05 * rng.normal(size=(90, 3))
    for number in range(2):
        crawl(tmp_path / f"crawl-{number}.parquet", [{} for _ in range(45)], 45 * number)
    order = rng.permutation(90).tolist()
    table = {"uid": [uid(i) for i in order], "vector": [vectors[i].astype(np.float32).tolist() for i in order]}
    pl.DataFrame(table).write_parquet(tmp_path / "vectors.parquet")
    scores: dict[str, Any] = {
        "embedding": {"by": "joined", "path": "vectors.parquet", "columns": {"vector": "vector"}},
        "concept": {"by": "clusters", "of": "vector", "clusters": 3},
    }
    balance = [{"name": "concepts", "by": "concept", "share": 1 / 3}]
    report = built(tmp_path, scores=scores, balance=balance)
    line = next(line for line in report.stages[0].data["funnel"] if line["step"] == "balance: concepts")
    assert (line["in"], line["out"]) == (90, 30)
    assert not built(tmp_path, scores=scores, balance=balance).work
    lost = pl.read_parquet(report.out / "ledger" / "dedup.parquet")["detail"].to_list()
    # Ten of each concept stay: all of the rarest, a sixth of the commonest.
    assert sorted(Counter(detail.split(": ")[-1] for detail in lost).items()) == [
        ("10 of 20 stay", 10),
        ("10 of 60 stay", 50),
    ]
    again = built(tmp_path, scores=scores, balance=[{**balance[0], "share": 0.5}])
    assert (again.work["cluster concept"], again.work["score concept"], again.work["count"]) == (0, 0, 2)
    with pytest.raises(ScoreError, match="90 embeddings vector are too few for 91 clusters"):
        built(tmp_path, scores={**scores, "concept": {**scores["concept"], "clusters": 91}}, balance=balance)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"name": "x", "by": "kind"}, "balance.0: give either cap or share"),
        ({"name": "x", "by": "kynd", "cap": 3}, "balance.0.by: there is no column 'kynd' in any sample; did you mean"),
        ({"name": "x", "by": "kind", "cap": 3, "sources": ["y"]}, "balance.0.sources: there is no source 'y'"),
    ],
)
def test_a_rule_that_cannot_be_is_named_by_its_place(tmp_path: Path, rule: dict[str, Any], message: str) -> None:
    crawl(tmp_path / "crawl.parquet", [{}])
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, balance=[rule])
