"""A small crawl: captioned pictures in a Parquet file, as DataComp lays them out, and a recipe that reads it."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART


def uid(number: int) -> str:
    """A 128-bit uid as DataComp writes them, in no order of its number."""
    return f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}"


def picture(seed: int, width: int = 48, height: int = 40) -> bytes:
    out = io.BytesIO()
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def crawl(path: Path, rows: Sequence[Mapping[str, Any]], first: int = 0) -> Path:
    """Rows of `caption` and whatever else; what a row does not say, its number decides."""
    full = [{"uid": uid(i), "caption": f"picture {i}", "image": picture(i), **row} for i, row in enumerate(rows, first)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(full, infer_schema_length=None).write_parquet(path)
    return path


def recipe(folder: Path, **changes: Any) -> Path:
    """A recipe of one source, crawl*.parquet; `changes` replace its sections."""
    raw = {
        "name": "crawl",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"crawl": {"format": "captions", "path": "crawl*.parquet", "kind": "caption"}},
        "stages": {"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"crawl": 1.0}}},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(raw))
    return path


def built(folder: Path, out: Path | None = None, workers: int = 1, **changes: Any) -> BuildReport:
    return build(load_recipe(recipe(folder, **changes)), out or folder / "out", workers)


def dropped(report: BuildReport, step: str = "filter") -> dict[str, str]:
    """The ledger's lines of a step: why, by the number of the sample's row."""
    lines = pl.read_parquet(report.out / "ledger" / f"{step}.parquet")
    return {line["locator"].rsplit("#", 1)[1]: line["detail"] or line["reason"] for line in lines.to_dicts()}


def kept(report: BuildReport) -> set[str]:
    """The keys of the samples that were drawn."""
    draws = pl.read_parquet(report.out / "only-256" / "draws.parquet").select(pl.col("sample_id").cast(pl.Binary))
    index = json.loads((report.out / "samples" / "index.json").read_text())
    tables = [pl.read_parquet(report.out / "samples" / line["samples"], columns=["sample_id", "key"]) for line in index]
    samples = pl.concat(tables).with_columns(pl.col("sample_id").cast(pl.Binary))
    return set(samples.join(draws, on="sample_id", how="semi")["key"])
