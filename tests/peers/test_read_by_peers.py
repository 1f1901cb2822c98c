"""Exports as MosaicML streaming and Energon read them, with their own loaders."""

import hashlib
import json
from pathlib import Path

import pytest

from mindvl_data.exports import export
from mindvl_data.manifest import Manifest, packs_of, read_manifest
from mindvl_data.pipeline import BuildReport
from mindvl_data.shards import Pack
from tests.peers.environment import run

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def manifest(quickstart: BuildReport) -> Manifest:
    return read_manifest(quickstart.out / "warmup-2048")


@pytest.fixture(scope="module")
def packs(manifest: Manifest) -> list[Pack]:
    return list(packs_of(manifest))


def lines(peer: str, script: str, folder: Path) -> list[dict]:
    return [json.loads(line) for line in run(peer, HERE / script, folder).splitlines() if line.startswith("{")]


def hashes(pack: Pack) -> list[str]:
    return [hashlib.sha256(image.data or b"").hexdigest() for image in pack.images]


def test_mosaicml_streaming_reads_the_samples(
    manifest: Manifest, packs: list[Pack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindvl_data.exports.mds.SHARD_BYTES", 1 << 20)
    export(manifest, "mds", tmp_path / "mds")
    assert len(list((tmp_path / "mds").glob("*.mds"))) > 2
    found = lines("mds", "read_mds.py", tmp_path / "mds")
    assert [line["sample_id"] for line in found] == [uid.hex() for pack in packs for uid in pack.sample_ids]
    assert [digest for line in found for digest in line["sha256"]] == [d for pack in packs for d in hashes(pack)]
    assert {line["messages"][0]["content"][0]["type"] for line in found} <= {"text", "image"}


def test_mosaicml_streaming_reads_the_packs(manifest: Manifest, packs: list[Pack], tmp_path: Path) -> None:
    export(manifest, "mds", tmp_path / "mds", whole_packs=True)
    found = lines("mds", "read_mds.py", tmp_path / "mds")
    assert [line["tokens"] for line in found] == [pack.tokens.tolist() for pack in packs]
    assert [line["loss_mask"] for line in found] == [pack.loss_mask.astype(int).tolist() for pack in packs]
    assert [line["sha256"] for line in found] == [hashes(pack) for pack in packs]


def test_energon_reads_the_samples(
    manifest: Manifest, packs: list[Pack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindvl_data.exports.tars.SHARD_BYTES", 1 << 20)
    export(manifest, "energon", tmp_path / "energon")
    found = lines("energon", "read_energon.py", tmp_path / "energon")
    # Energon deals its tars in an order of its own; the keys say ours.
    found.sort(key=lambda line: line["key"].rsplit("/", 1)[-1])
    assert [line["meta"]["sample_id"] for line in found] == [uid.hex() for pack in packs for uid in pack.sample_ids]
    assert [digest for line in found for digest in line["sha256"].values()] == [d for p in packs for d in hashes(p)]
