"""Which files every machine that runs a build's tasks must have."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindvl_data.engines.local import LocalEngine
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.mindvl_data.crawl import crawl, recipe


class Noting(LocalEngine):
    """An engine that writes down what it is told of folders and files."""

    told: tuple[Path | None, Sequence[Path]]

    def share(self, folder: Path | None, files: Sequence[Path]) -> None:
        self.told = folder, files


def shared(path: Path, out: Path, store: str | None = None) -> tuple[Path | None, Sequence[Path]]:
    with Noting() as engine:
        build(load_recipe(path), out, engine=engine, store=store)
        return engine.told


def test_the_build_folder_the_recipe_and_what_it_names_or_in_a_store_only_what_lies_here(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{}] * 8)
    (tmp_path / "tokenizer.json").write_bytes((QUICKSTART / "tokenizer.json").read_bytes())
    changes: dict[str, Any] = {"tokenizer": "tokenizer.json"}
    path, tokenizer = recipe(tmp_path, **changes), tmp_path / "tokenizer.json"
    assert shared(path, tmp_path / "out") == (tmp_path / "out", [tokenizer, path])
    in_store = f"file://{tmp_path}/stored"
    assert shared(path, tmp_path / "scratch", in_store) == (None, [tokenizer, path])
    raw = json.loads(path.read_text())
    raw["sources"]["crawl"]["path"] = f"file://{tmp_path}/crawl.parquet"
    path.write_text(json.dumps(raw))
    assert shared(path, tmp_path / "scratch", in_store) == (None, [tokenizer])
