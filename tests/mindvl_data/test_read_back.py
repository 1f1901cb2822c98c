"""What exports write is read back: the same tokens and masks; every format gives the same turns."""

import json
from pathlib import Path
from typing import Any

import pytest

from mindvl_data.exports import export
from mindvl_data.inspect.peek import peek
from mindvl_data.manifest import Manifest, packs_of, read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read

FILES = {"webdataset": "*.tar", "energon": "*.tar", "mds": "*.mds", "datasets": "data/*.parquet"}


def built(folder: Path, name: str, **source: Any) -> Manifest:
    raw = {
        "name": "t",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"d": {"kind": "instruction", **source}},
        "stages": {"sft": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"d": 1}}},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(raw))
    build(load_recipe(folder / f"{name}.yaml"), folder / f"out-{name}")
    return read_manifest(folder / f"out-{name}" / "sft-256")


def segments(manifest: Manifest) -> list[tuple[list[int], list[bool]]]:
    found = []
    for pack in packs_of(manifest):
        for start, stop in zip(pack.cu_seqlens, pack.cu_seqlens[1 : len(pack.sample_ids) + 1], strict=False):
            found.append((pack.tokens[start:stop].tolist(), pack.loss_mask[start:stop].tolist()))
    return sorted(found)


def test_every_export_is_read_back_with_the_same_tokens_and_masks(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    turns = [("human", "<image> what?"), ("gpt", "not this"), ("human", "and?"), ("gpt", "this")]
    rows = [
        {"image": f"{i}.png", "conversations": [{"from": who, "value": f"{text} {i}"} for who, text in turns]}
        for i in range(3)
    ]
    for row in rows:
        row["conversations"][1]["loss"] = False  # type: ignore[index]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    manifest = built(tmp_path, "first", format="llava", path="d.json")
    for name, files in FILES.items():
        export(manifest, name, tmp_path / name)
        look = peek(next((tmp_path / name).glob(files)))
        assert (look.format, look.render, len(look.samples)) == ("messages", "chat", 3)
        assert segments(built(tmp_path, name, format=look.format, path=f"{name}/{files}")) == segments(manifest)


def turns_of(found: Scanned) -> list[list[tuple[int, str, bool | None, str | None]]]:
    return [[(part["turn"], part["role"], part["loss"], part["text"]) for part in line["parts"]] for line in found.kept]


def test_empty_turns_are_turns_in_every_format(tmp_path: Path) -> None:
    texts = ["", "hello", "", " and ", ""]
    roles = ["system", "user", "assistant", "user", "assistant"]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    conversations = [{"from": names[role], "value": text} for role, text in zip(roles, texts, strict=True)]
    messages = [{"role": role, "content": text or []} for role, text in zip(roles, texts, strict=True)]
    (tmp_path / "s.jsonl").write_text(json.dumps({"conversations": conversations}))
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": messages}))
    expected = [[(i, role, None, text) for i, (role, text) in enumerate(zip(roles, texts, strict=True))]]
    assert turns_of(read(tmp_path / "s.jsonl", "sharegpt")) == expected
    assert turns_of(read(tmp_path / "m.jsonl", "messages")) == expected


@pytest.mark.parametrize(("field", "value"), [("weight", 0), ("weight", 0.0), ("loss", False), ("train", False)])
def test_a_turn_says_under_several_names_that_it_is_not_trained_on(tmp_path: Path, field: str, value: object) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", field: value}]
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": messages}))
    assert [part[2] for part in turns_of(read(tmp_path / "m.jsonl", "messages"))[0]] == [None, False]
    messages[1][field] = -0.5
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": messages}))
    assert read(tmp_path / "m.jsonl", "messages").drops["0"][0] == "malformed_record"


def test_added_tokens_that_are_not_special_are_words_and_special_ones_are_text(tmp_path: Path) -> None:
    spec = json.loads((QUICKSTART / "tokenizer.json").read_text())
    number = 1 + max(token["id"] for token in spec["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    spec["added_tokens"].append({"id": number, "content": "<think>", **flags})
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokeniser = load_tokeniser("tokenizer.json", tmp_path)
    ids = tokeniser.text_only.encode("a <think><|im_end|>", add_special_tokens=False).ids
    assert ids.count(number) == 1
    assert tokeniser.special_ids["im_end"] not in ids
    assert tokeniser.decode(ids) == "a <think><|im_end|>"
