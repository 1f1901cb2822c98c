"""Pairs of answers, and prompts with an answer to be checked: from their rows through a build to what trainers read."""

import json
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from mindvl_data.exports import ExportError, export
from mindvl_data.exports.rewards import RewardsError
from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.mindvl_data.crawl import picture

USER = {"role": "user", "content": "What is it?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("A stone.", "A bird, I think."))
# The same pair in every form.
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "What is it?", "chosen": "A stone.", "rejected": "A bird, I think."},
    "question": {"question": "What is it?", "chosen": "A stone.", "rejected": "A bird, I think."},
    "messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "implicit": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "both": {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "one message": {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
}


def made(folder: Path, rows: list[dict[str, Any]], kind: str, **changes: Any) -> BuildReport:
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "pairs",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"some": {"format": kind, "path": "rows.jsonl", "kind": "preference", "max_bad": 1.0}},
        "stages": {"only": {"seq_len": 128, "budget": {"epochs": 1}, "mixture": {"some": 1.0}}},
        **changes,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "out")


@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_a_pair_is_prompt_chosen_and_rejected(tmp_path: Path, form: str) -> None:
    report = made(tmp_path, [PAIRS[form]], "preferences")
    manifest = read_manifest(report.out / "only-128")
    (pack,) = packs_of(manifest)
    whole = made(tmp_path / "plain", [{"messages": [USER, GOOD, {**BAD, "loss": False}]}], "messages")
    (plain,) = packs_of(read_manifest(whole.out / "only-128"))
    assert pack.tokens.tolist() == plain.tokens.tolist()
    assert pack.loss_mask.tolist() == plain.loss_mask.tolist()
    alone = made(tmp_path / "alone", [{"messages": [USER, GOOD]}], "messages")
    (chosen,) = packs_of(read_manifest(alone.out / "only-128"))
    # The loss is the chosen answer's, and the length that of both.
    assert int(pack.loss_mask.sum()) == int(chosen.loss_mask.sum())
    assert pack.num_tokens > chosen.num_tokens
    export(manifest, "trl", tmp_path / "trl")
    (row,) = datasets.load_dataset(str(tmp_path / "trl"), split="train")
    said = {
        name: [(m["role"], m["content"][0]["text"]) for m in row[name]] for name in ("prompt", "chosen", "rejected")
    }
    assert said == {
        "prompt": [("user", "What is it?")],
        "chosen": [("assistant", "A stone.")],
        "rejected": [("assistant", "A bird, I think.")],
    }


def test_pictures_mixture_and_dedup_are_those_of_all_samples(tmp_path: Path) -> None:
    tmp_path.joinpath("1.jpg").write_bytes(picture(1))
    seen = {"prompt": "<image>Which?", "chosen": "This one.", "rejected": "That.", "images": ["1.jpg"]}
    other = {**seen, "rejected": "None of them."}
    report = made(tmp_path, [seen, seen, other, PAIRS["texts"]], "preferences", dedup=[{"by": "sample"}])
    manifest = read_manifest(report.out / "only-128")
    assert manifest.data["mixture"]["total"]["samples"] == 3
    export(manifest, "trl", tmp_path / "trl")
    rows = datasets.load_dataset(str(tmp_path / "trl"), split="train")
    assert sorted(len(row["images"]) for row in rows) == [0, 1, 1]
    shown = next(row for row in rows if row["images"])
    assert [block["type"] for block in shown["prompt"][0]["content"]] == ["image", "text"]
    assert shown["images"][0].size == (48, 40)
    with pytest.raises(RewardsError, match="is a pair of answers, which verl does not read: --to trl"):
        export(manifest, "verl", tmp_path / "verl")
    with pytest.raises(ExportError, match="packs cannot be written to it"):
        export(manifest, "trl", tmp_path / "packs", whole_packs=True)


ASKED = [
    {"prompt": "1 + 1?", "answer": 2},
    {"problem": "<image>How many?", "solution": "three", "images": ["1.jpg"]},
    {"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "a stone"}, "system": "Be short."},
]


def test_prompts_are_exported_with_the_answers_that_are_checked(tmp_path: Path) -> None:
    tmp_path.joinpath("1.jpg").write_bytes(picture(1))
    manifest = read_manifest(made(tmp_path, ASKED, "prompts").out / "only-128")
    export(manifest, "verl", tmp_path / "verl")
    table = pl.read_parquet(tmp_path / "verl" / "data" / "*.parquet").sort(
        pl.col("reward_model").struct["ground_truth"]
    )
    assert table["reward_model"].to_list() == [{"style": "rule", "ground_truth": t} for t in ("2", "a stone", "three")]
    prompts = [[(m["role"], m["content"]) for m in prompt] for prompt in table["prompt"].to_list()]
    assert prompts == [
        [("user", "1 + 1?")],
        [("system", "Be short."), ("user", "What is it?")],
        [("user", "<image>How many?")],
    ]
    assert [len(images) for images in table["images"].to_list()] == [0, 0, 1]
    assert table["images"][2][0]["bytes"] == picture(1)
    assert set(table["data_source"]) == {"some"}
    assert set(table["ability"]) == {"preference"}
    says = [{"prompt": "What does <image> mean?", "answer": "a place"}]
    with pytest.raises(RewardsError, match="which verl would take for a place"):
        export(read_manifest(made(tmp_path / "says", says, "prompts").out / "only-128"), "verl", tmp_path / "no")
    export(manifest, "trl", tmp_path / "trl")
    rows = datasets.load_dataset(str(tmp_path / "trl"), split="train")
    assert sorted(rows["answer"]) == ["2", "a stone", "three"]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preferences", {"prompt": "a", "chosen": "b", "rejected": "b"}),
        ("preferences", {"chosen": "b", "rejected": "c"}),
        ("preferences", {"prompt": "a", "chosen": "b"}),
        ("preferences", {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]}),
        ("preferences", {"prompt": "a", "chosen": 3, "rejected": [1]}),
        ("preferences", {"prompt": "a", "chosen": [USER], "rejected": [BAD]}),
        ("prompts", {"prompt": "a"}),
        ("prompts", {"answer": "a"}),
        ("prompts", {"prompt": "a", "answer": ["x"]}),
    ],
)
def test_what_is_none_is_dropped_with_its_reason(tmp_path: Path, kind: str, row: dict[str, Any]) -> None:
    sound = PAIRS["texts"] if kind == "preferences" else ASKED[0]
    report = made(tmp_path, [sound, row], kind)
    scan = next(line for line in report.funnel if line.step == "scan")
    assert dict(scan.reasons) == {"malformed_record": 1}
