"""The readers of recipe, manifest and shard: whatever the bytes, what comes back is sound or a UserError."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindvl_data.errors import UserError
from mindvl_data.manifest import read_manifest
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import ShardReader
from mindvl_data.steps.filters import rules_of
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import make_manifest, make_pack

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RECIPE = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a tree of lists and objects."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, item in items for place in paths(item, (*here, key)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(copy[place[0]], place[1:], new)
    return copy


def recipe_of(data: bytes, folder: Path) -> None:
    (folder / "recipe.yaml").write_bytes(data)
    with contextlib.suppress(UserError):
        rules_of(load_recipe(folder / "recipe.yaml").recipe.filters)


@given(st.binary(max_size=200))
@FUZZ
def test_any_bytes_as_a_recipe(tmp_path: Path, data: bytes) -> None:
    recipe_of(data, tmp_path)


@given(st.sampled_from(paths(RECIPE)), JSON)
@FUZZ
def test_any_value_at_any_place_of_a_recipe(tmp_path: Path, place: tuple[Any, ...], new: Any) -> None:
    recipe_of(
        yaml.safe_dump(replaced(RECIPE, place, new), allow_unicode=True).encode("utf-8", "surrogatepass"), tmp_path
    )


@given(st.text(max_size=40))
@FUZZ
def test_any_override(text: str) -> None:
    with contextlib.suppress(UserError):
        load_recipe(QUICKSTART / "recipe.yaml", [text])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("set"), [make_pack(i) for i in range(6)]).parent


def manifest_of(data: bytes, folder: Path) -> None:
    """Read it, sealed as if it had been written so, and use what a loader needs of it."""
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.json.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")
    with contextlib.suppress(UserError):
        found = read_manifest(folder)
        assert isinstance(found.id, str)
        assert found.seq_len > 0
        assert found.num_packs >= 0
        assert all(Path(shard.path).name == shard.path for shard in found.shards)


@given(st.binary(max_size=200))
@FUZZ
def test_any_bytes_as_a_manifest(tmp_path: Path, data: bytes) -> None:
    manifest_of(data, tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "manifest.json.sha256").write_bytes(data)
    with pytest.raises(UserError):
        read_manifest(tmp_path)


@given(st.data(), JSON)
@FUZZ
def test_any_value_at_any_place_of_a_manifest(packed: Path, tmp_path: Path, data: st.DataObject, new: Any) -> None:
    whole = json.loads((packed / "manifest.json").read_text())
    place = data.draw(st.sampled_from(paths(whole)))
    manifest_of(json.dumps(replaced(whole, place, new)).encode(), tmp_path)


def shard_of(data: bytes, folder: Path) -> None:
    path = folder / "shard-00000.arrow"
    path.write_bytes(data)
    with contextlib.suppress(UserError), ShardReader(path) as reader:
        for number in range(len(reader)):
            assert reader[number].seq_len == len(reader[number].loss_mask)
        assert len(list(reader)) == len(reader)


@given(st.binary(max_size=300))
@FUZZ
def test_any_bytes_as_a_shard(tmp_path: Path, data: bytes) -> None:
    shard_of(data, tmp_path)
    shard_of(b"ARROW1\0\0" + data + b"ARROW1", tmp_path)


@given(st.data())
@settings(FUZZ, max_examples=200)
def test_a_shard_with_any_bytes_changed_or_cut(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray((packed / "shard-00000.arrow").read_bytes())
    # The metadata lie at the ends: there a change does most.
    places = st.integers(0, len(whole) - 1) | st.integers(0, 3000) | st.integers(len(whole) - 3000, len(whole) - 1)
    for place in data.draw(st.lists(places, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    shard_of(bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))]), tmp_path)
