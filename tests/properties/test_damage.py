"""One flipped bit or one missing byte, anywhere: the file is named, and nothing wrong is trained on."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.errors import UserError
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.shards import pack_digest
from mindvl_data.stream import PackStream
from tests.mindvl_data.packs import make_manifest, make_pack

SHARDS = ["shard-00000.arrow", "shard-00001.arrow"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("damage") / "set", [make_pack(i) for i in range(3)], per_shard=2)


@pytest.fixture(scope="module")
def sound(packed: Path) -> list[bytes]:
    return [pack_digest(pack) for pack in PackStream(packed)]


def damaged(data: bytes, place: float, bit: int | None) -> bytes:
    """`data` with one bit flipped, or without one byte (`bit` None), at `place` of its length."""
    at = int(place * len(data))
    piece = b"" if bit is None else bytes([data[at] ^ (1 << bit)])
    return data[:at] + piece + data[at + 1 :]


@given(
    name=st.sampled_from([*SHARDS, "manifest.json", "manifest.json.sha256", "draws.parquet"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.none() | st.integers(0, 7),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_named_and_never_trained_on(
    packed: Path, sound: list[bytes], name: str, place: float, bit: int | None
) -> None:
    path = packed.parent / name
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, place, bit))
    try:
        check(packed, name, sound)
    finally:
        path.write_bytes(whole)


def check(packed: Path, name: str, sound: list[bytes]) -> None:
    read, refusal = trained_on(packed)
    assert read == sound[: len(read)]
    if name == "draws.parquet":
        assert (read, refusal) == (sound, ""), "a stream does not read the draws"
    elif name == "manifest.json.sha256" and not refusal:
        assert read == sound, "a seal without its last newline says the same"
    else:
        assert name.removesuffix(".sha256") in refusal
    if not name.startswith("manifest"):
        assert name in {file for file, texts in verify(read_manifest(packed)) if texts}


def trained_on(packed: Path) -> tuple[list[bytes], str]:
    """What a stream delivers, and the error that it ends with."""
    read: list[bytes] = []
    try:
        read.extend(pack_digest(pack) for pack in PackStream(packed))
    except UserError as error:
        return read, str(error)
    return read, ""


def test_every_bit_of_a_shards_first_and_last_bytes_counts(packed: Path, sound: list[bytes]) -> None:
    path = packed.parent / SHARDS[1]
    whole = path.read_bytes()
    for at in [*range(16), *range(len(whole) - 16, len(whole))]:
        path.write_bytes(damaged(whole, at / len(whole) + 1e-9, at % 8))
        with pytest.raises(UserError, match=SHARDS[1]):
            list(PackStream(packed))
    path.write_bytes(whole)
    assert [pack_digest(pack) for pack in PackStream(packed)] == sound


ANY_JSON = st.none() | st.booleans() | st.integers(-2, 1 << 40) | st.text(max_size=8) | st.just([]) | st.just({})


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_sealed_manifest_of_any_form_is_read_or_refused(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whoever seals nonsense gets a sentence, not a traceback."""
    changed = copy.deepcopy(json.loads(packed.read_text()))
    change(changed, data.draw)
    folder = tmp_path_factory.mktemp("sealed") / "set"
    shutil.copytree(packed.parent, folder)
    (folder / "manifest.json").write_text(json.dumps(changed))
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / "manifest.json.sha256").write_text(digest)
    _, refusal = trained_on(folder)
    assert str(folder) in refusal or not refusal
    if "not of the form" not in refusal and "format_version" not in refusal:
        list(verify(read_manifest(folder)))
    shutil.rmtree(folder.parent)


def change(tree: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Puts any value somewhere into a tree of JSON, or takes one out."""
    while True:
        keys = sorted(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = draw(st.sampled_from(keys))
        deeper = isinstance(tree[key], dict | list) and tree[key] and draw(st.booleans())
        if not deeper:
            break
        tree = tree[key]
    if draw(st.booleans()):
        tree[key] = draw(ANY_JSON)
    else:
        del tree[key]
