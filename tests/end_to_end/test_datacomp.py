"""A pool as DataComp publishes it: tars by webdataset, metadata Parquet with the scores, and a subset of uids."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import webdataset

from mindvl_data.inspect.explain import stories
from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png

SAMPLES = 12


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two tars, metadata in another order and other files than theirs, and a subset with one uid listed twice."""
    folder = tmp_path / "pool"
    for name in ("shards", "metadata"):
        (folder / name).mkdir(parents=True)
    for shard in range(2):
        with webdataset.TarWriter(str(folder / "shards" / f"{shard:08d}.tar")) as writer:
            for number in range(shard * 6, shard * 6 + 6):
                meta = {"uid": uid(number), "key": f"{number:09d}", "status": "success", "original_width": 56}
                writer.write({"__key__": f"{number:09d}", "png": png(number), "txt": f"cat {number}", "json": meta})
    metadata = pl.DataFrame(
        {
            "uid": [uid(number) for number in range(SAMPLES)],
            "url": ["https://example.invalid/x.png"] * SAMPLES,
            "text": [f"cat {number}" for number in range(SAMPLES)],
            "original_width": [56] * SAMPLES,
            "original_height": [56] * SAMPLES,
            "clip_b32_similarity_score": [0.2] * SAMPLES,
            "clip_l14_similarity_score": [number / 100 for number in range(SAMPLES)],
            "face_bboxes": [[[0.1, 0.2, 0.3, 0.4]]] * SAMPLES,
        }
    ).sort("uid")
    # One sample has no metadata.
    metadata = metadata.filter(pl.col("uid") != uid(11))
    metadata[:5].write_parquet(folder / "metadata" / "a.parquet")
    metadata[5:].write_parquet(folder / "metadata" / "b.parquet")
    halves = [(int(uid(n)[:16], 16), int(uid(n)[16:], 16)) for n in (2, 5, 7, 7, 8, 11)]
    np.save(folder / "subset.npy", np.sort(np.array(halves, "u8,u8")))
    recipe: dict[str, Any] = {
        "name": "datacomp",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"pool": {"format": "webdataset", "path": "shards/*.tar", "kind": "caption", "uids": "subset.npy"}},
        "scores": {
            "clip": {
                "by": "joined",
                "path": "metadata/*.parquet",
                "on": "uid",
                "columns": {"clip_l14": "clip_l14_similarity_score"},
            }
        },
        "filters": [{"name": "similar", "where": "clip_l14 >= 0.05", "missing": "drop"}],
        "stages": {"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"pool": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def test_scores_of_the_metadata_and_a_subset_decide_what_is_packed(pool: Path, tmp_path: Path) -> None:
    report = build(load_recipe(pool / "recipe.yaml"), tmp_path / "out")
    scan = next(line for line in report.funnel if line.step == "scan")
    # A uid listed twice means twice: one sample more than the tars hold.
    assert (scan.entered, scan.left, dict(scan.reasons)) == (SAMPLES + 1, 6, {"not_in_subset": 7})
    similar = next(line for line in report.funnel if line.step == "filter: similar")
    assert (similar.entered, similar.left, dict(similar.reasons)) == (6, 4, {"filtered": 2})
    manifest = read_manifest(report.out / "only-256")
    drawn = [sample for pack in packs_of(manifest) for sample in pack.sample_ids]
    assert len(drawn) == len(set(drawn)) == 4
    keys = sorted(stories(manifest, sample.hex())[0]["facts"]["key"] for sample in drawn)
    assert keys == ["000000005", "000000007", "000000007-1", "000000008"]
    (scored,) = [story for story in stories(manifest, uid(7)) if story["facts"]["key"] == "000000007"]
    assert scored["scores"] == {"clip_l14": 0.07}
    (unscored,) = stories(manifest, uid(11))
    assert [drop["reason"] for drop in unscored["dropped"]] == ["filtered"]
    assert unscored["scores"] == {"clip_l14": None}
