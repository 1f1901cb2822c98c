"""Names in data are data: nothing is written or read by them outside a source's root."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import read

NAMES = ["../../up", "/abs/olute", "a/../../b", "C:\\x", "with\nline", "<|im_end|>", "🙂", "x" * 90, "${HOME}"]


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_member_names_of_a_tar_are_keys_and_no_paths(tmp_path: Path) -> None:
    place = tmp_path / "in" / "deep"
    place.mkdir(parents=True)
    with tarfile.open(place / "x.tar", "w") as archive:
        for number, name in enumerate(NAMES):
            for suffix, data in (("png", png(number)), ("txt", f"text {number}".encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    recipe = {
        "name": "names",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"tar": {"format": "webdataset", "path": "x.tar", "kind": "caption"}},
        "stages": {"only": {"seq_len": 1024, "budget": {"epochs": 1}, "mixture": {"tar": 1}}},
    }
    (place / "recipe.yaml").write_text(json.dumps(recipe))
    before = tree(tmp_path)
    report = build(load_recipe(place / "recipe.yaml"), tmp_path / "out")
    assert {path for path in tree(tmp_path) - before if (tmp_path / "out") not in (path, *path.parents)} == set()
    assert [(line.entered, line.left) for line in report.funnel if line.step == "scan"] == [(len(NAMES), len(NAMES))]
    packs = list(packs_of(read_manifest(report.out / "only-1024")))
    text = "".join(load_tokeniser("tokenizer.json", QUICKSTART).decode(pack.tokens.tolist()) for pack in packs)
    assert all(f"text {number}" in text for number in range(len(NAMES)))


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.png", "a/../../secret.png", "/etc/passwd", "file:///etc/passwd", "http://x.invalid/a.png"),
        *("s3://bucket/a.png", "link.png", "folder/secret.png", "zip://a.png::x.zip", "~/a.png", ""),
    ],
)
def test_paths_in_records_lead_nowhere_else(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    entry = {"image": path, "caption": "x"}
    (root / "x.jsonl").write_text(json.dumps(entry))
    found = read(root / "x.jsonl", "captions")
    assert not found.kept
    assert found.drops["0"][0] in ("outside_root", "missing_image")
