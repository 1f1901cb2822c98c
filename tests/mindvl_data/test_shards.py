"""The pack shard: what is written is what is read, and every broken rule is found."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data import shards
from mindvl_data.shards import (
    Frame,
    Pack,
    PackImage,
    ShardError,
    ShardReader,
    layout,
    pack_digest,
    pack_problems,
    read_costs,
    schema,
    write_shard,
)
from tests.mindvl_data.packs import SPECIAL_IDS, VOCAB_SIZE, make_pack


def same(a: Pack, b: Pack) -> bool:
    return a.index == b.index and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__
    )


@pytest.mark.parametrize("images", [True, False])
def test_packs_come_back_as_they_were_written_in_any_order(tmp_path: Path, images: bool) -> None:
    packs = [make_pack(i, images=images) for i in range(40)]
    info = write_shard(tmp_path / "shard-00000.arrow", packs, 64, ["b", "a"])
    with ShardReader(tmp_path / info.path) as reader:
        assert len(reader) == info.packs == 40
        assert all(same(reader[i], packs[i]) for i in (39, 0, 17, 15, 16))
        assert all(same(a, b) for a, b in zip(reader, packs, strict=True))
        with pytest.raises(IndexError):
            reader[40]


class _Counted(io.FileIO):
    """Counts the bytes that are read from it."""

    count = 0

    def readinto(self, buffer: bytearray) -> int:
        self.count += len(buffer)
        return super().readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_costs_are_read_without_tokens_and_images(tmp_path: Path) -> None:
    packs = [make_pack(i, seq_len=4096, images=i % 2 == 0) for i in range(40)]
    info = write_shard(tmp_path / "s.arrow", packs, 4096, ["a", "b"])
    with _Counted(tmp_path / "s.arrow") as file:
        costs = read_costs(file)
        assert file.count < info.bytes / 20
    np.testing.assert_array_equal(costs, [(pack.attention_cost, pack.num_patches) for pack in packs])


@pytest.mark.parametrize("columns", [{"num_patches": [1]}, {"num_patches": [None], "attention_cost": [2]}])
def test_costs_of_another_table_are_refused(tmp_path: Path, columns: dict[str, list[int | None]]) -> None:
    table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    with pa.OSFile(str(tmp_path / "s.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with (tmp_path / "s.arrow").open("rb") as file, pytest.raises(ShardError, match="not a readable pack shard"):
        read_costs(file)


def test_the_columns_are_the_contract(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.arrow", [make_pack(0)], 64, ["a", "b"])
    with pa.memory_map(str(tmp_path / "s.arrow")) as file:
        found = pa.ipc.open_file(file).schema
    assert found == schema(64)
    assert [f"{field.name}: {field.type}" for field in found] == [
        "tokens: fixed_size_list<item: int32>[64]",
        "loss_mask: fixed_size_list<item: bool>[64]",
        "cu_seqlens: list<item: int32>",
        "num_tokens: int32",
        "sample_id: list<item: fixed_size_binary[16]>",
        "source: list<item: dictionary<values=string, indices=int16, ordered=0>>",
        "repeat: list<item: int16>",
        "images: list<item: struct<start: int32, grid_t: int16, grid_h: int16, grid_w: int16, bytes: large_binary, "
        "uri: string, offset: int64, size: int64, sha256: fixed_size_binary[32]>>",
        "num_patches: int32",
        "attention_cost: int64",
        "vision_cost: int64",
    ]


def test_record_batches_stay_small_enough_for_one_range_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(packs: list[Pack]) -> list[int]:
        write_shard(tmp_path / "s.arrow", packs, 64, ["a", "b"])
        with pa.memory_map(str(tmp_path / "s.arrow")) as file:
            reader = pa.ipc.open_file(file)
            return [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]

    packs = [make_pack(i) for i in range(20)]
    assert batches(packs) == [16, 4]
    monkeypatch.setattr(layout, "MAX_BATCH_BYTES", 3 * len(packs[0].images[0].data or b""))
    assert max(batches(packs)) == 2


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a.arrow", map(make_pack, range(20)), 64, ["a", "b"])
    again = write_shard(tmp_path / "b.arrow", map(make_pack, range(20)), 64, ["a", "b"])
    assert first.sha256 == again.sha256 == shards.file_sha256(tmp_path / "b.arrow")
    assert first.bytes == (tmp_path / "a.arrow").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.arrow", "b.arrow"]


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_digest_is_of_the_content_alone(seed: int) -> None:
    pack = make_pack(seed)
    assert pack_digest(replace(pack, index=7, sources=("x", "y"), repeats=(3, 3))) == pack_digest(pack)
    tokens = pack.tokens.copy()
    tokens[seed % 50] ^= 1
    assert pack_digest(replace(pack, tokens=tokens)) != pack_digest(pack)
    assert pack_digest(replace(pack, loss_mask=~pack.loss_mask)) != pack_digest(pack)
    assert pack_digest(replace(pack, images=())) != pack_digest(pack)


FRAMES = st.lists(st.builds(Frame, st.integers(0, 99), st.floats(0, 9)), max_size=4).map(tuple)
IMAGES = st.lists(
    st.builds(
        PackImage,
        st.integers(0, 63),
        st.tuples(*[st.integers(1, 90)] * 3),
        data=st.one_of(st.none(), st.binary(max_size=9)),
        uri=st.one_of(st.none(), st.text(max_size=9)),
        offset=st.one_of(st.none(), st.integers(0, 2**40)),
        size=st.integers(0, 2**40),
        sha256=st.one_of(st.none(), st.binary(min_size=32, max_size=32)),
        frames=FRAMES,
        seconds_per_grid=st.floats(0, 9),
    ),
    max_size=4,
).map(tuple)


@given(st.lists(IMAGES, min_size=1, max_size=20), st.sampled_from([50, 61, 64]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_digests_from_columns_are_those_of_the_packs(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[PackImage, ...]], seq_len: int, weighted: bool
) -> None:
    packs = [replace(make_pack(i, seq_len, images=False), images=some) for i, some in enumerate(images)]
    if weighted:
        packs[0] = replace(packs[0], loss_weights=np.linspace(0, 2, seq_len, dtype=np.float32))
    path = tmp_path_factory.mktemp("shard") / "s.arrow"
    info = write_shard(path, packs, seq_len, ["a", "b"], video=True, weighted=weighted)
    assert info.pack_digests == tuple(map(pack_digest, packs))


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 100), st.integers(1, 9))
def test_packs_are_closed_before_they_pass_what_is_allowed(sizes: list[int], most_bytes: int, most_packs: int) -> None:
    found = layout.borders(np.array(sizes, np.int64), most_bytes, most_packs)
    assert [i for first, end in found for i in range(first, end)] == list(range(len(sizes)))
    for first, end in found:
        assert end - first == 1 or (sum(sizes[first:end]) <= most_bytes and end - first <= most_packs)
        full = end - first == most_packs or sum(sizes[first : end + 1]) > most_bytes
        assert full or end == len(sizes), "closed no sooner than it must"


def broken(name: str) -> Pack:
    pack = make_pack(3)
    tokens, mask = pack.tokens.copy(), pack.loss_mask.copy()
    match name:
        case "num_tokens":
            return replace(pack, num_tokens=49)
        case "borders":
            return replace(pack, cu_seqlens=np.array([0, 20, 50], np.int32))
        case "sample_id":
            return replace(pack, sample_ids=pack.sample_ids[:1])
        case "vocabulary":
            tokens[10] = VOCAB_SIZE
        case "padding":
            tokens[60] = 9
        case "loss on padding":
            mask[60] = True
        case "first token":
            mask[20] = True
        case "placeholder":
            mask[3] = True
        case "learn":
            mask[:] = False
        case "num_patches":
            return replace(pack, num_patches=15)
        case "attention_cost":
            return replace(pack, attention_cost=1)
        case "vision_cost":
            return replace(pack, vision_cost=1)
        case "framed":
            tokens[1] = 9
        case "sha256":
            return replace(pack, images=(replace(pack.images[0], data=b"other"),))
        case "neither":
            return replace(pack, images=(replace(pack.images[0], data=None),))
        case "runs":
            tokens[40] = SPECIAL_IDS["image_pad"]
    return replace(pack, tokens=tokens, loss_mask=mask)


WORDS = {
    "num_tokens": "no segment border",
    "borders": "does not rise",
    "sample_id": "not one a real segment",
    "vocabulary": "outside the vocabulary",
    "padding": "not the end-of-text",
    "loss on padding": "loss on padding",
    "first token": "first token",
    "placeholder": "loss on an image placeholder",
    "learn": "no token to learn from",
    "num_patches": "num_patches",
    "attention_cost": "attention_cost",
    "vision_cost": "vision_cost",
    "framed": "not framed",
    "sha256": "do not have their sha256",
    "neither": "neither bytes nor a place",
    "runs": "not exactly the runs",
}


@pytest.mark.parametrize("name", WORDS)
def test_every_broken_rule_is_named(name: str) -> None:
    assert pack_problems(make_pack(3), SPECIAL_IDS, VOCAB_SIZE, 2) == []
    assert any(WORDS[name] in problem for problem in pack_problems(broken(name), SPECIAL_IDS, VOCAB_SIZE, 2))


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"nothing of the kind" * 100])
def test_a_file_that_is_no_shard_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.arrow").write_bytes(data)
    with pytest.raises(ShardError, match=r"s\.arrow"):
        ShardReader(tmp_path / "s.arrow")


def test_a_name_of_a_column_that_is_no_text_is_a_damaged_shard(tmp_path: Path) -> None:
    shard = tmp_path / "s.arrow"
    write_shard(shard, [make_pack(0)], 64, ["a", "b"])
    whole = shard.read_bytes()
    assert whole.count(b"loss_mask") == 2
    shard.write_bytes(whole.replace(b"loss_mask", b"loss_mas\x80"))
    with pytest.raises(ShardError, match="not a readable pack shard"):
        ShardReader(shard)
