"""The manifest: nothing altered, missing or of another version is taken for a data set."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mindvl_data.manifest import ManifestError, pack_at, pack_costs, packs_of, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.shards import file_sha256
from tests.mindvl_data.packs import make_manifest, make_pack


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_manifest(tmp_path / "set", [make_pack(i) for i in range(10)])


def problems(path: Path) -> list[str]:
    return [f"{name}: {text}" for name, texts in verify(read_manifest(path)) for text in texts]


def test_a_sound_set_is_sound(manifest: Path) -> None:
    assert problems(manifest) == []
    found = read_manifest(manifest.parent)
    assert (found.num_packs, found.seq_len, len(found.shards)) == (10, 64, 3)
    assert [pack_at(found, i).index for i in (0, 5, 9)] == [0, 5, 9]
    with pytest.raises(ManifestError, match="no pack 10; its packs are 0 to 9"):
        pack_at(found, 10)


def test_costs_are_those_of_the_packs(tmp_path: Path) -> None:
    packs = [make_pack(i, lengths=(10 + i, 20), images=i % 3 == 0) for i in range(10)]
    manifest = read_manifest(make_manifest(tmp_path / "set", packs))
    expected = [(pack.attention_cost, pack.num_patches) for pack in packs_of(manifest)]
    np.testing.assert_array_equal(pack_costs(manifest), expected)


@pytest.mark.parametrize("damage", ["missing", "another", "no shard"])
def test_costs_of_a_shard_that_is_none_say_where(manifest: Path, damage: str) -> None:
    shard = manifest.parent / "shard-00002.arrow"
    shard.unlink()
    if damage == "another":
        shard.write_bytes((manifest.parent / "shard-00000.arrow").read_bytes())
    if damage == "no shard":
        shard.write_bytes(b"x" * 400)
    with pytest.raises(ManifestError, match=r"shard-00002\.arrow: .*copy it again or rebuild"):
        pack_costs(read_manifest(manifest))


@pytest.mark.parametrize("name", ["shard-00001.arrow", "draws.parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_verify_names_the_damaged_file(manifest: Path, name: str, damage: str) -> None:
    path = manifest.parent / name
    data = bytearray(path.read_bytes() or b"x")
    data[len(data) // 2] ^= 1
    path.unlink() if damage == "remove" else path.write_bytes(data if damage == "flip" else data[:-1] + b"12")
    assert any(text.startswith(name) for text in problems(manifest))


def test_an_altered_manifest_is_refused_even_when_it_is_still_json(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace('"seq_len": 64', '"seq_len": 65'))
    with pytest.raises(ManifestError, match="altered"):
        read_manifest(manifest)


def test_an_id_that_is_not_of_the_content_is_found(manifest: Path) -> None:
    reseal(manifest, json.loads(manifest.read_text()) | {"id": "0" * 64})
    assert any("id is not the hash" in text for text in problems(manifest))


def _another(table: pa.Table, name: str) -> pa.Table:
    values = table[name].to_pylist()
    values[0] = b"x" * 16 if name == "sample_id" else values[0] + 1
    return table.set_column(table.schema.get_field_index(name), name, [values])


@pytest.mark.parametrize(
    "change",
    [
        *(partial(_another, name=name) for name in ("sample_id", "repeat", "shard", "pack", "start", "stop")),
        lambda table: table.slice(1),
        lambda table: table.take([1, 0, *range(2, len(table))]),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.drop_columns(["stop"]),
        lambda table: table.set_column(1, "repeat", [[None] * len(table)]),
    ],
)
def test_a_list_of_draws_that_is_not_of_the_packs_is_found(
    manifest: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    path = manifest.parent / "draws.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    data = json.loads(manifest.read_text())
    reseal(manifest, data | {"draws": {**data["draws"], "sha256": file_sha256(path)}})
    assert problems(manifest) == ["draws.parquet: its draws are not the packs'"]


def test_draws_are_the_packs_in_however_many_parts_they_are_listed(manifest: Path) -> None:
    path = manifest.parent / "draws.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=3)
    data = json.loads(manifest.read_text())
    reseal(manifest, data | {"draws": {**data["draws"], "sha256": file_sha256(path)}})
    assert problems(manifest) == []


def reseal(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data))
    path.with_suffix(".json.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def test_another_version_says_what_to_do(manifest: Path) -> None:
    data = json.loads(manifest.read_text()) | {"format_version": 99}
    reseal(manifest, data)
    with pytest.raises(ManifestError, match=r"format_version is 99.*build the data set again"):
        read_manifest(manifest)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sha256"])
def test_half_a_manifest_is_none(manifest: Path, name: str) -> None:
    (manifest.parent / name).unlink()
    with pytest.raises(ManifestError, match=name):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("packing", {"fill": 0.99}, "packing.fill is 0.99"),
        ("packing", {"minimum_packs": 11}, "above its 10 packs"),
        ("mixture", {"total": {"tokens": 1}}, "mixture.total.tokens is 1"),
    ],
)
def test_numbers_that_lie_are_found(manifest: Path, key: str, value: dict, words: str) -> None:
    data = json.loads(manifest.read_text())
    reseal(manifest, data | {key: data[key] | value})
    assert any(words in text for text in problems(manifest))


@pytest.mark.parametrize(
    "change",
    [
        {"shards": None},
        {"shards": [{}]},
        {"shards": [{"path": "../x", "packs": 1, "bytes": 1, "sha256": ""}]},
        {"shards": [{"path": "/etc/passwd", "packs": 1, "bytes": 1, "sha256": ""}]},
        {"draws": {"path": "../../x", "sha256": ""}},
        {"packing": {}},
        {"packing": {"packs": 11, "minimum_packs": 1, "tokens": 1, "padding": 0, "fill": 1.0}},
        {"seq_len": 0},
        {"tokenizer": []},
        {"order": {"step": "x"}},
    ],
)
def test_what_has_not_the_form_of_a_manifest_is_refused(manifest: Path, change: dict) -> None:
    reseal(manifest, json.loads(manifest.read_text()) | change)
    with pytest.raises(ManifestError, match="not of the form"):
        read_manifest(manifest)
