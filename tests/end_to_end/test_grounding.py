"""A build of data with boxes: each set has them as its own pictures are resized, and bad ones leave with a reason."""

import io
import json
import pickle
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageDraw

from mindvl_data.inspect.explain import stories
from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildError, BuildReport, build
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.shards import Pack
from mindvl_data.tables.store import open_store
from mindvl_data.tokenise import Tokeniser, load_tokeniser
from tests.conftest import QUICKSTART

SIZE, BOX = (500, 400), (100, 120, 300, 360)
BOUNDS = {"small": 40_000, "large": 200_000}
Row = dict[str, Any]


def picture(path: Path) -> None:
    image = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(image).rectangle(BOX, fill="red")
    image.save(path)


def asked(answer: str, **more: Any) -> Row:
    question = {"role": "user", "content": "<image>Where is it?"}
    return {"images": ["0.png"], "messages": [question, {"role": "assistant", "content": answer}], **more}


def write_recipe(folder: Path, rows: list[Row], boxes: Row | None, **more: Any) -> Path:
    """Rows of messages with boxes, and rows of text without any rule; two stages that resize differently."""
    folder.mkdir(exist_ok=True)
    picture(folder / "0.png")
    (folder / "boxes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = [{"text": f"plain text {i} about <box>(1,2),(3,4)</box>"} for i in range(12)]
    (folder / "plain.jsonl").write_text("\n".join(map(json.dumps, plain)))
    shutil.copy(QUICKSTART / "tokenizer.json", folder)
    grounded: Row = {"format": "messages", "path": "boxes.jsonl", "kind": "grounding"}
    mixture = {"grounded": 0.9, "plain": 0.1}
    stage = {"seq_len": 1024, "budget": {"epochs": 2}, "mixture": mixture}
    recipe = {
        "name": "grounding",
        "tokenizer": "tokenizer.json",
        "sources": {
            "grounded": grounded | ({"boxes": boxes} if boxes else {}),
            "plain": {"format": "text", "path": "plain.jsonl", "kind": "text"},
        },
        "stages": {name: stage | {"resolution": {"max_pixels": bound}} for name, bound in BOUNDS.items()},
        "order": {"step": 1},
        **more,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"


def segments(report: BuildReport, name: str, tokeniser: Tokeniser) -> list[tuple[str, str, tuple[int, int]]]:
    """Source, text and size of the resized picture of every sample of a set."""
    manifest = read_manifest(report.out / f"{name}-1024")
    assert [problem for _, problems in verify(manifest) for problem in problems] == []
    return [segment for pack in packs_of(manifest) for segment in _segments(pack, tokeniser)]


def _segments(pack: Pack, tokeniser: Tokeniser) -> list[tuple[str, str, tuple[int, int]]]:
    found = []
    for number, source in enumerate(pack.sources):
        start, stop = pack.cu_seqlens[number : number + 2]
        grids = [image.grid for image in pack.images if start <= image.start < stop]
        size = (grids[0][2] * 14, grids[0][1] * 14) if grids else (0, 0)
        found.append((source, tokeniser.decode(pack.tokens[start:stop].tolist()), size))
    return found


def expected(size: tuple[int, int]) -> list[int]:
    return [round(value * (size[i % 2] / SIZE[i % 2])) for i, value in enumerate(BOX)]


ROWS = [
    *[asked(f"{i}: <box>({BOX[0]},{BOX[1]}),({BOX[2]},{BOX[3]})</box>") for i in range(6)],
    *[asked(f'{i}: {{"bbox_2d": {list(BOX)}}}') for i in range(6)],
    *[asked(f"{i}: <ref-object> at <bbox>", objects={"ref": ["the box"], "bbox": [list(BOX)]}) for i in range(6)],
    *[asked(f"{i}: in words") for i in range(6)],
]


@pytest.fixture(scope="module")
def grounded(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    folder = tmp_path_factory.mktemp("grounding")
    recipe = write_recipe(folder / "recipe", ROWS, {"from": "pixels", "write": "resized"})
    return build(load_recipe(recipe), folder / "out")


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return load_tokeniser("tokenizer.json", QUICKSTART)


def test_each_set_has_the_boxes_of_its_own_pictures(grounded: BuildReport, tokeniser: Tokeniser) -> None:
    for name in BOUNDS:
        found = segments(grounded, name, tokeniser)
        boxed = [(text, size) for source, text, size in found if source == "grounded" and "in words" not in text]
        assert len(boxed) > 6
        for text, size in boxed:
            answer = text.split("assistant\n")[1].replace("bbox_2d", "")
            assert [int(n) for n in re.findall(r"\d+", answer)][1:] == expected(size), text
        assert any("the box at [" in text for text, _ in boxed)
        assert all("<box>(1,2),(3,4)</box>" in text for source, text, _ in found if source == "plain")
    sizes = [{size for *_, size in segments(grounded, name, tokeniser)} - {(0, 0)} for name in BOUNDS]
    assert sizes[0] != sizes[1]


def test_only_texts_with_boxes_are_counted_for_each_bound(grounded: BuildReport) -> None:
    stores = sorted((grounded.out / "tokens").glob("*/"))
    names = [store.name.split("-")[0] for store in stores if store.is_dir()]
    assert names.count("plain") == 1
    assert names.count("grounded") == 2
    assert grounded.work["count"] == 2, "a task a file, whatever the bounds"
    first, second = (open_store(store) for store in stores if store.name.startswith("grounded"))
    lengths = [[store.starts[i + 1] - store.starts[i] for i in range(18, 24)] for store in (first, second)]
    assert lengths[0] == lengths[1]


def test_building_again_does_no_work_and_another_bound_counts_only_what_has_boxes(
    grounded: BuildReport, tmp_path: Path
) -> None:
    out = shutil.copytree(grounded.out, tmp_path / "out")
    recipe = grounded.out.parent / "recipe" / "recipe.yaml"
    assert not build(load_recipe(recipe), out).work
    again = build(load_recipe(recipe, ["stages.large.resolution.max_pixels=150000"]), out)
    assert again.work["scan"] == 0
    assert again.work["count"] == 1
    assert [stage.state for stage in again.stages] == ["relabelled", "built"]


def test_explain_shows_the_text_of_each_set(grounded: BuildReport, tokeniser: Tokeniser) -> None:
    manifest = read_manifest(grounded.out / "small-1024")
    for key in ("2", "8", "14"):
        (story,) = [s for s in stories(manifest, key) if s["facts"]["source"] == "grounded"]
        for name in BOUNDS:
            drawn = [text for _, text, _ in segments(grounded, name, tokeniser)]
            told = "".join(story["texts"][f"{name}-1024"])
            answer = told.removeprefix("Where is it?")
            assert any(answer in text for text in drawn), answer
        assert story["texts"]["small-1024"] != story["texts"]["large-1024"]
    (words,) = [s for s in stories(manifest, "20") if s["facts"]["source"] == "grounded"]
    assert words["texts"] == {}


def test_bad_boxes_are_drops_with_their_reasons(tmp_path: Path) -> None:
    bad = [
        asked("<box>(0,0),(501,10)</box>"),
        asked("<box>(0,0),(5)</box>"),
        {**asked("<box>(0,0),(5,5)</box>"), "images": [], "messages": asked("<box>(0,0),(5,5)</box>")["messages"][1:]},
        asked("<bbox> and <bbox>", objects={"bbox": [[1, 2]]}),
        asked("<bbox>", objects={"bbox": [[1, 2]], "image_id": [1]}),
    ]
    limits = {"max_bad": 0.5}
    recipe = write_recipe(tmp_path / "recipe", [*bad, *ROWS], {"from": "pixels", "write": "resized"}, **limits)
    with pytest.raises(
        BuildError, match=r"sources\.grounded: 4 of 28 samples are unusable(.|\n)*2 × box_without_image"
    ):
        build(load_recipe(recipe, ["sources.grounded.max_bad=0.05"]), tmp_path / "out")
    report = build(load_recipe(recipe, ["sources.grounded.max_bad=0.5"]), tmp_path / "out")
    ledger = pl.concat([pl.read_parquet(tmp_path / "out" / "ledger" / f"{step}.parquet") for step in ("scan", "count")])
    assert dict(zip(ledger["locator"], ledger["reason"], strict=True)) == {
        "boxes.jsonl#0": "box_outside_image",
        "boxes.jsonl#1": "malformed_record",
        "boxes.jsonl#2": "box_without_image",
        "boxes.jsonl#3": "box_count_mismatch",
        "boxes.jsonl#4": "box_without_image",
    }
    line = next(line for line in report.funnel if (line.step, line.source) == ("count", "grounded"))
    assert (line.entered, line.left) == (28, 24)


def test_thousandths_do_not_depend_on_the_bounds_and_are_counted_once(tmp_path: Path, tokeniser: Tokeniser) -> None:
    recipe = write_recipe(tmp_path / "recipe", ROWS, {"from": "pixels", "write": "thousand"})
    report = build(load_recipe(recipe), tmp_path / "out")
    assert len([store for store in (tmp_path / "out" / "tokens").glob("*/") if store.is_dir()]) == 2
    for name in BOUNDS:
        texts = [text for source, text, _ in segments(report, name, tokeniser) if source == "grounded"]
        assert any("<box>(200,300),(600,900)</box>" in text for text in texts)
        assert any("the box at [200, 300, 600, 900]" in text for text in texts)


def test_control_tokens_are_one_token_each_or_a_message(tmp_path: Path) -> None:
    boxes = {"from": "pixels", "write": "thousand", "marks": "tokens"}
    recipe = write_recipe(tmp_path / "recipe", ROWS, boxes)
    report = build(load_recipe(recipe), tmp_path / "out")
    own = load_tokeniser("tokenizer.json", tmp_path / "recipe")
    form = "<|object_ref_start|>the box<|object_ref_end|> at <|box_start|>(200,300),(600,900)<|box_end|>"
    packs = list(packs_of(read_manifest(report.out / "small-1024")))
    assert any(form in own.decode(pack.tokens.tolist()) for pack in packs)
    assert any(own.added["<|box_start|>"] in pack.tokens for pack in packs)
    learnt = [pack.loss_mask[pack.tokens == own.added["<|box_end|>"]] for pack in packs]
    assert all(mask.all() for mask in learnt)
    path = tmp_path / "recipe" / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if "box" not in token["content"]]
    path.write_text(json.dumps(spec))
    with pytest.raises(RecipeError, match=r"sources\.grounded\.boxes\.marks: .*tokenizer\.json has no <\|box_start\|>"):
        build(load_recipe(recipe), tmp_path / "out")


def test_objects_of_a_table_and_a_rule_that_goes_to_other_processes(tmp_path: Path, tokeniser: Tokeniser) -> None:
    boxes = {"from": "pixels", "write": "resized"}
    objects = {"ref": ["the box"], "bbox": [[float(value) for value in BOX], [5.0, 6.0]], "image_id": [0, 0]}
    rows = [asked(f"{i}: <ref-object> at <bbox>, not <bbox>", objects=objects) for i in range(6)]
    recipe = write_recipe(tmp_path / "recipe", ROWS, boxes)
    pq.write_table(pa.Table.from_pylist([*rows, asked("words", objects=None)]), tmp_path / "recipe" / "boxes.parquet")
    loaded = load_recipe(recipe, ["sources.grounded.path=boxes.parquet"])
    assert pickle.loads(pickle.dumps(loaded.recipe.sources["grounded"].boxes)).from_ == "pixels"
    report = build(loaded, tmp_path / "out")
    texts = [(text, size) for source, text, size in segments(report, "large", tokeniser) if source == "grounded"]
    assert any("words" in text for text, _ in texts)
    for text, size in texts:
        if "words" not in text:
            found = [int(n) for n in re.findall(r"\d+", text.split("assistant\n")[1])]
            assert found[1:5] == expected(size)
            assert len(found) == 7


def test_objects_without_a_rule_are_no_silent_placeholders(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", ROWS, None)
    with pytest.raises(BuildError, match=r"places for boxes; add `boxes: \{from"):
        build(load_recipe(recipe), tmp_path / "out")


def test_captions_of_a_tar_have_boxes_too(tmp_path: Path, tokeniser: Tokeniser) -> None:
    recipe = write_recipe(tmp_path / "recipe", ROWS, {"from": "unit", "write": "resized"})
    picture(tmp_path / "p.png")
    with tarfile.open(tmp_path / "recipe" / "a.tar", "w") as archive:
        for number in range(6):
            text = f"{number}: <box>(0.2,0.3),(0.6,0.9)</box>".encode()
            for suffix, data in (("png", (tmp_path / "p.png").read_bytes()), ("txt", text)):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    sources = ["sources.grounded.format=webdataset", "sources.grounded.path=a.tar"]
    report = build(load_recipe(recipe, sources), tmp_path / "out")
    texts = [(text, size) for source, text, size in segments(report, "large", tokeniser) if source == "grounded"]
    assert texts
    for text, size in texts:
        assert [int(n) for n in re.findall(r"\d+", text.split(":")[1])] == expected(size)


def test_a_plan_from_a_sample_counts_the_rewritten_texts(grounded: BuildReport, tmp_path: Path) -> None:
    recipe = load_recipe(grounded.out.parent / "recipe" / "recipe.yaml")
    planned = build(recipe, tmp_path / "out", dry_run=True, sample=1000)
    for told, made in zip(planned.stages, grounded.stages, strict=True):
        if made.name.startswith("small"):
            assert told.data["mixture"]["total"] == made.data["mixture"]["total"]
