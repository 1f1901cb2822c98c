"""What a run has learnt of every sample, as a score of the next build."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from mindvl_train.config.loading import load_config
from mindvl_train.loop.metrics import read_records
from mindvl_train.loop.run import train
from mindvl_train.presets import read_preset
from tests.mindvl_data.crawl import built, crawl, kept


def trained(data: Path, out: Path, **changes: Any) -> Path:
    """A run of the tiny preset over a build's only set; returns its folder."""
    stage = {"manifest": "only-256/manifest.json", "lr": {"*": 1e-3}, "until": {"epochs": 1}, "global_batch": 1}
    raw = {"name": "losses", "data": str(data), "model": {"name": "vlm", "config": read_preset("tiny")}}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(raw | {"losses": True, "stages": {"only": stage}} | changes))
    train(load_config(path), str(path), out)
    return out


def test_the_hardest_half_is_what_a_runs_losses_say(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{} for _ in range(12)])
    out = trained(built(tmp_path).out, tmp_path / "run")
    losses = pl.read_parquet(out / "losses.parquet")
    assert len(losses) == 12
    score = {"by": "joined", "path": "run/losses.parquet", "on": "sample_id", "columns": {"loss": "loss"}}
    report = built(
        tmp_path, scores={"losses": score}, filters=[{"name": "hard", "where": f"loss > {losses['loss'].median()}"}]
    )
    index = json.loads((report.out / "samples" / "index.json").read_text())
    table = pl.read_parquet(report.out / "samples" / index[0]["samples"])
    keys = table.with_columns(pl.col("sample_id").cast(pl.Binary).bin.encode("hex"))
    hard = losses.filter(pl.col("loss") > losses["loss"].median())["sample_id"]
    assert kept(report) == set(keys.filter(pl.col("sample_id").is_in(hard.to_list()))["key"])
    assert len(hard) == 6
    assert report.stages[0].data["scores"]["crawl"]["losses"]["missing"] == 0


@pytest.mark.parametrize("selection", [{"name": "infobatch", "prune": 0.5}, {"name": "seta", "groups": 4}])
def test_epochs_of_a_built_set_are_selected_without_writing_it_again(tmp_path: Path, selection: dict[str, Any]) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": f"picture {i} " * (i % 5 + 1)} for i in range(16)])
    data = built(tmp_path).out
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    stage = {"manifest": "only-256/manifest.json", "lr": {"*": 1e-3}, "until": {"epochs": 3}, "selection": selection}
    out = trained(data, tmp_path / "run", stages={"only": stage})
    records = read_records(out / "metrics.jsonl")
    epochs = [record for record in records if record["event"] == "epoch"]
    assert [epoch["of"] for epoch in epochs] == [16] * 3
    assert epochs[1]["segments"] < epochs[0]["segments"] == epochs[2]["segments"] == 16
    assert epochs[1].get("weighed_up", 0) == (0 if selection["name"] == "seta" else 16 - epochs[1]["segments"])
    assert sum(record["event"] == "step" for record in records) == sum(epoch["packs"] for epoch in epochs)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()} == before
