"""Every format to packs, on the quickstart's real images: each text and each picture's bytes arrive.

From files that a format's own library wrote, where it has one that shares our environment; MDS and Energon are in
tests/peers.
"""

import gzip
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from mindvl_data.errors import UserError
from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.tables.schema import REASONS
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART

PICTURES = sorted((QUICKSTART / "data" / "documents" / "images").iterdir())[:4]
EACH = 3
Row = dict[str, Any]


def picture(number: int) -> bytes:
    return PICTURES[number % len(PICTURES)].read_bytes()


def struct_of(number: int) -> Row:
    return {"bytes": picture(number), "path": f"{number}.png"}


def turns(name: str, number: int) -> tuple[str, str]:
    return f"{name} question {number}", f"{name} answer {number}"


def webdataset_tar(folder: Path, name: str) -> str:
    with webdataset.TarWriter(str(folder / f"{name}.tar")) as writer:
        for i in range(EACH):
            one = {"__key__": f"{i:09d}", "png": picture(i), "json": {"uid": f"{name}-{i}"}}
            writer.write({**one, "txt": turns(name, i)[1]})
    return f"{name}.tar"


def llava(folder: Path, name: str) -> str:
    rows = []
    for i in range(EACH):
        (folder / f"{name}-{i}.png").write_bytes(picture(i))
        question, answer = turns(name, i)
        said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        rows.append({"id": i, "image": f"{name}-{i}.png", "conversations": said})
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    return f"{name}.json.gz"


def sharegpt(folder: Path, name: str) -> str:
    rows = []
    for i in range(EACH):
        question, answer = turns(name, i)
        more = {"from": "human", "value": "More?"}, {"from": "gpt", "value": "No."}
        said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}, *more]
        rows.append({"conversations": said, "system": "be brief"})
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return f"{name}.parquet"


def messages(folder: Path, name: str) -> str:
    rows = []
    for i in range(EACH):
        question, answer = turns(name, i)
        (folder / f"{name}-{i}.png").write_bytes(picture(i))
        image = {"type": "image_url", "image_url": {"url": f"{name}-{i}.png"}}
        blocks = [image, {"type": "text", "text": question}]
        rows.append({"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]})
    lines = "\n".join(map(json.dumps, rows)).encode()
    (folder / f"{name}.jsonl.zst").write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    return f"{name}.jsonl.zst"


def query_response(folder: Path, name: str) -> str:
    rows = []
    for i in range(EACH):
        question, answer = turns(name, i)
        (folder / f"{name}-{i}.png").write_bytes(picture(i))
        rows.append({"query": f"<image>{question}", "response": answer, "images": [f"{name}-{i}.png"]})
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"{name}.jsonl"


def finevision(folder: Path, name: str) -> str:
    pair = {"user": datasets.Value("string"), "assistant": datasets.Value("string")}
    features = datasets.Features({"images": [datasets.Image()], "texts": [pair]})
    rows = [
        {"images": [struct_of(i), struct_of(i + 1)], "texts": [dict(zip(pair, turns(name, i), strict=True))]}
        for i in range(EACH)
    ]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / f"{name}.parquet"))
    return f"{name}.parquet"


def captions(folder: Path, name: str) -> str:
    features = datasets.Features({"picture": datasets.Image(), "alt": datasets.Value("string")})
    rows = [{"picture": struct_of(i), "alt": turns(name, i)[1]} for i in range(EACH)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder / name))
    return name


def interleaved(folder: Path, name: str) -> str:
    rows = [
        {"texts": [turns(name, i)[0], None, turns(name, i)[1]], "images": [None, struct_of(i), None]}
        for i in range(EACH)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return f"{name}.parquet"


def text(folder: Path, name: str) -> str:
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": turns(name, i)[1]}) for i in range(EACH)))
    return f"{name}.jsonl"


# How each is written, and how many pictures a sample has.
FORMATS: dict[str, tuple[Callable[[Path, str], str], int]] = {
    "webdataset": (webdataset_tar, 1),
    "llava": (llava, 1),
    "sharegpt": (sharegpt, 0),
    "messages": (messages, 1),
    "query_response": (query_response, 1),
    "finevision": (finevision, 2),
    "captions": (captions, 1),
    "interleaved": (interleaved, 1),
    "text": (text, 0),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    folder = tmp_path_factory.mktemp("formats")
    names = {"captions": {"image": "picture", "caption": "alt"}}
    sources = {
        name: {"format": name, "path": write(folder, name), "kind": name, "columns": names.get(name, {})}
        for name, (write, _) in FORMATS.items()
    }
    share = 1 / len(FORMATS)
    stages = {"all": {"seq_len": 8192, "budget": {"tokens": 8000}, "mixture": dict.fromkeys(FORMATS, share)}}
    stages["all"]["max_epochs"] = 1000
    recipe = {"name": "formats", "tokenizer": str(QUICKSTART / "tokenizer.json"), "sources": sources, "stages": stages}
    recipe["resolution"] = {"max_pixels": 28 * 28 * 64}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "out")


@pytest.mark.parametrize("name", FORMATS)
def test_texts_and_pictures_of_every_format_arrive_in_packs(built: BuildReport, name: str) -> None:
    tokeniser = load_tokeniser("tokenizer.json", QUICKSTART)
    known = {hashlib.sha256(picture(i)).digest(): i % len(PICTURES) for i in range(len(PICTURES))}
    seen = set()
    for pack in packs_of(read_manifest(built.out / "all-8192")):
        for number, source in enumerate(pack.sources):
            if source != name:
                continue
            start, stop = pack.cu_seqlens[number : number + 2].tolist()
            shown = tokeniser.decode(pack.tokens[start:stop].tolist())
            which = next(i for i in range(EACH) if turns(name, i)[1] in shown)
            data = [image.data or b"" for image in pack.images if start <= image.start < stop]
            pictures = [known[hashlib.sha256(one).digest()] for one in data]
            assert pictures == [(which + i) % len(PICTURES) for i in range(FORMATS[name][1])]
            if name not in ("webdataset", "captions", "text"):
                assert turns(name, which)[0] in shown
            learnt = pack.tokens[start:stop][pack.loss_mask[start:stop]].tolist()
            # The first token of a sample is nobody's target.
            assert turns(name, which)[1].removeprefix("text ") in tokeniser.decode(learnt)
            seen.add(which)
    assert seen


def test_the_ledger_has_every_sample_that_the_funnel_lost(recipe_folder: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (recipe_folder / "data" / "documents" / "images" / f"doc-00{number}.png").write_bytes(b"broken")
    changes = [
        "max_bad=0.5",
        "sources.documents.max_bad=0.5",
        "filters.1.where=text_chars >= 60",
        "stages.warmup.budget.tokens=20000",
        "stages.multitask.budget.tokens=20000",
        "stages.sft.seq_len=512",
    ]
    report = build(load_recipe(recipe_folder / "recipe.yaml", changes), tmp_path / "out")
    paths = list((report.out / "ledger").glob("*.parquet"))
    ledger = pl.concat([pl.read_parquet(path) for path in paths])
    assert set(ledger["reason"]) <= set(REASONS)
    assert not ledger["locator"].is_null().any()
    assert ledger.select("sample_id", "step", "reason").is_duplicated().sum() == 0
    steps = ledger.group_by("source", "step", "reason").len().rows()
    found = {(source, step, reason): count for source, step, reason, count in steps}
    for line in report.funnel:
        step = "filter" if line.step.startswith("filter") else line.step
        if step != "filter":
            assert line.reasons == {r: n for (s, at, r), n in found.items() if (s, at) == (line.source, step)}
    filtered = sum(sum(line.reasons.values()) for line in report.funnel if line.step.startswith("filter"))
    assert filtered == sum(count for (_, step, _), count in found.items() if step == "filter") > 0
    for stage in report.stages:
        for line in stage.data["funnel"]:
            if line["step"] == "fit":
                at = f"fit: {stage.name}"
                lost = {r: n for (s, step, r), n in found.items() if (s, step) == (line["source"], at)}
                assert line["reasons"] == lost


def test_the_order_in_which_files_are_named_changes_nothing(tmp_path: Path) -> None:
    files = [f"data/captions-00{i}.tar" for i in range(2)]
    stages = "{only: {seq_len: 1024, budget: {tokens: 9000}, mixture: {captions: 0.5, text: 0.5}, max_epochs: 99}}"
    ids = set()
    for number, order in enumerate(itertools.permutations(files)):
        changes = [f"sources.captions.path={json.dumps(order)}", f"stages={stages}"]
        report = build(load_recipe(QUICKSTART / "recipe.yaml", changes), tmp_path / str(number))
        ids.add(read_manifest(report.out / "only-1024").id)
    assert len(ids) == 1


def test_the_recipes_limit_holds_where_a_source_says_none(recipe_folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        (recipe_folder / "data" / "documents" / "images" / f"doc-00{number}.png").write_bytes(b"broken")
    loaded = load_recipe(recipe_folder / "recipe.yaml", ["max_bad=0.001"])
    with pytest.raises(Exception, match=r"sources\.documents: 3 of \d+ samples are unusable, max_bad allows 0\.10%"):
        build(loaded, tmp_path / "out", dry_run=True)
    own = ["max_bad=0.001", "sources.documents.max_bad=0.5"]
    assert build(load_recipe(recipe_folder / "recipe.yaml", own), tmp_path / "out", dry_run=True).stages
    own = ["max_bad=1", "sources.documents.max_bad=0.01"]
    with pytest.raises(Exception, match=r"3 of \d+ samples are unusable, sources\.documents\.max_bad allows 1\.00%"):
        build(load_recipe(recipe_folder / "recipe.yaml", own), tmp_path / "out", dry_run=True)


def test_what_can_be_known_before_the_scan_is_said_before_it(recipe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="tokenizer"):
        build(load_recipe(recipe_folder / "recipe.yaml", ["tokenizer=none.json"]), tmp_path / "out")
    with pytest.raises(Exception, match="did you mean 'qwen2-vl'"):
        build(load_recipe(recipe_folder / "recipe.yaml", ["chat_template=qwen2vl"]), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.parquet"))
    loaded = load_recipe(recipe_folder / "recipe.yaml", ["stages.sft.budget={tokens: 2B}"])
    with pytest.raises(UserError) as failed:
        build(loaded, tmp_path / "out", dry_run=True)
    assert {line.step for line in failed.value.funnel} >= {"scan", "count"}


def test_one_more_file_costs_the_scan_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": f"text {number} of nine"}))
    recipe = {
        "name": "many",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"many": {"format": "text", "path": "*.jsonl", "kind": "text"}},
        "stages": {"only": {"seq_len": 128, "budget": {"epochs": 1}, "mixture": {"many": 1}}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))

    def work() -> tuple[int, int]:
        report = build(load_recipe(folder / "recipe.yaml"), tmp_path / "out", dry_run=True)
        return report.work["scan"], report.work["count"]

    assert work() == (9, 9)
    (folder / "new.jsonl").write_text(json.dumps({"text": "a new one"}))
    assert work() == (1, 1)
    (folder / "3.jsonl").write_text(json.dumps({"text": "changed, same name"}))
    assert work() == (1, 1)
    (folder / "4.jsonl").unlink()
    assert work() == (0, 0)


PLUGIN = """
from mindvl_data.tables.schema import Part
from mindvl_data.sources import Sample
from mindvl_data.sources.rows import samples

def read(file, asked):
    return samples(file, asked, ("verse",), lambda key, row: Sample(key, [Part(0, "text", None, row["verse"])], []))

read.render = "plain"
"""


def test_a_format_of_another_package_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "verses-1.0.dist-info").mkdir(parents=True)
    (site / "verses.py").write_text(PLUGIN)
    (site / "verses-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: verses\nVersion: 1.0\n")
    points = "[mindvl_data.sources]\nverse = verses:read\n"
    (site / "verses-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"verse": f"line {i}"}) for i in range(4)))
    recipe = {
        "name": "verses",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"mine": {"format": "verse", "path": "x.jsonl", "kind": "text"}},
        "stages": {"only": {"seq_len": 64, "budget": {"epochs": 1}, "mixture": {"mine": 1}}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    report = build(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    assert [line.left for line in report.funnel if line.step == "scan"] == [4]
    assert read_manifest(report.out / "only-64").data["sources"]["mine"]["format"] == "verse"
