"""A recipe that has every step there is, on data in which each of them finds something to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.conftest import QUICKSTART
from tests.mindvl_data.crawl import crawl, picture, uid

TEXT = "a small boat lies at the quay while gulls argue over bread near the old grey lighthouse"


def _caption(number: int) -> str:
    words = TEXT.split()
    return " ".join(words[(number * 5 + i * (1 + number % 3)) % len(words)] for i in range(9)) + f" {number}."


def _rows(first: int, count: int) -> list[dict[str, Any]]:
    """Captioned pictures; of every eight one is another's in all, one in its text but a word, one in its picture."""
    rows = []
    for number in range(first, first + count):
        copied = {5: number - 5, 6: number - 6, 7: number - 7}.get(number % 8, number)
        caption = _caption(number if number % 8 == 7 else copied) + (" indeed" if number % 8 == 6 else "")
        rows.append({"caption": caption, "image": picture(copied if number % 8 != 6 else number, 160, 120)})
    return rows


def write_every_step(folder: Path, endpoint: str, media: str) -> Path:
    """The recipe, beside its data.

    Args:
        folder: Is made.
        endpoint: Of a chat model that rewrites captions; `JUDGE_KEY` in the environment is its key.
        media: `embed` or `reference`.
    """
    folder.mkdir(parents=True)
    for number in range(3):
        crawl(folder / f"crawl-{number}.parquet", _rows(24 * number, 24), 24 * number)
    crawl(folder / "test.parquet", [{"caption": "asked", "image": picture(n, 160, 120)} for n in range(8, 12)], 900)
    turns = [[("user", f"Say {n}."), ("assistant", _caption(n))] for n in range(30)]
    lines = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    vectors = np.random.default_rng(3).normal(size=(72, 6)).astype(np.float32)
    scores = {"uid": [uid(n) for n in range(72)], "score": [n % 10 / 10 for n in range(72)], "emb": vectors.tolist()}
    pl.DataFrame(scores).write_parquet(folder / "scores.parquet")
    raw = {
        "name": "every-step",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "media": media,
        "shard_bytes": 20_000,
        "sources": {
            "crawl": {"format": "captions", "path": "crawl-*.parquet", "kind": "caption"},
            "chats": {"format": "messages", "path": "chats.jsonl", "kind": "text"},
        },
        "evaluations": {"test": {"format": "captions", "path": "test.parquet", "kind": "test"}},
        "scores": {
            "su": {"by": "joined", "path": "scores.parquet", "columns": {"su": "score", "vector": "emb"}},
            "concept": {"by": "clusters", "of": "vector", "clusters": 3},
            "carries": {"by": "leverage", "of": "vector", "energy": 0.9},
        },
        "filters": [
            {"name": "says something", "where": "words >= 2 and blankness < 1", "missing": "keep"},
            {"name": "best", "top": 0.9, "of": "carries", "sources": ["crawl"]},
        ],
        "decontaminate": [{"by": "image"}],
        "dedup": [{"by": "sample"}, {"by": "image", "near": 4}, {"by": "text", "near": 0.7, "prefer": "su"}],
        "balance": [{"name": "concepts", "by": "concept", "share": 0.9}],
        "rewrite": [
            {
                "name": "recaption",
                "endpoint": endpoint,
                "model": "a-model",
                "api_key": "${JUDGE_KEY}",
                "prompt": "Text: {text}\n",
                "where": "su < 0.3",
            }
        ],
        "holdout": {"share": 0.1, "seq_len": 256},
        "stages": {
            "warmup": {"seq_len": 256, "budget": {"epochs": 2}, "mixture": {"crawl": 1.0}},
            "sft": {"seq_len": [128, 256], "budget": {"epochs": 1}, "mixture": {"crawl": 0.7, "chats": 0.3}},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(raw))
    return path
