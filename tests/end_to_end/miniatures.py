"""A published recipe on a miniature of every source: the same layout, columns and schema, a few dozen samples.

What changes in the recipe: where hub ids and variables point, how far brace ranges go, the tokenizer, and how much
is drawn. Everything else is built as it stands.
"""

import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mindvl_data.recipe import LoadedRecipe, load_recipe
from mindvl_data.recipe.scores import JoinedScore, NearestScore, UidsScore
from tests.conftest import QUICKSTART
from tests.mindvl_data.crawl import picture, uid

SAMPLES = 24
VARIABLE = re.compile(r"\$\{(\w+)\}")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXT = "a small boat lies at the quay while three gulls argue over bread near the old grey lighthouse"


def miniature(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    """The recipe as it is built here, with its sources and scores written below `folder`."""
    text = path.read_text()
    for name in set(VARIABLE.findall(text)):
        monkeypatch.setenv(name, str(folder / name))
    text = text.replace("hf://datasets/", f"{folder}/hub/")
    text = re.sub(r"\{(0+)\.\.\d+\}", lambda zeros: f"{{{zeros[1]}..{zeros[1][:-1]}1}}", text)
    raw = yaml.safe_load(text) | {"tokenizer": str(QUICKSTART / "tokenizer.json")}
    for stage in raw["stages"].values():
        stage["max_epochs"] = 10_000
        if stage.get("budget", {}).keys() & {"tokens", "samples"}:
            stage["budget"] = {"tokens": 30_000} if "tokens" in stage["budget"] else {"samples": 60}
    if "holdout" in raw:
        raw["holdout"]["share"] = 0.1
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    loaded = load_recipe(folder / "recipe.yaml")
    files = {place: source.format for source in loaded.recipe.sources.values() for place in source.path}
    for number, (place, format_) in enumerate(files.items()):
        for part, file in enumerate(_places(place)):
            file.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[format_](file, SAMPLES * (10 * number + part))
    for score in loaded.recipe.scores.values():
        _write_score(score)
    for source in loaded.recipe.sources.values():
        if source.uids:
            _write_uids(Path(source.uids))
    return loaded


def _places(place: str) -> list[Path]:
    """The files that stand for a path: globs get a name, brace ranges each of theirs."""
    named = place.replace("**", "part").replace("*", "0000")
    found = re.search(r"\{(\d+)\.\.(\d+)\}", named)
    return [Path(named.replace(found[0], end)) for end in found.groups()] if found else [Path(named)]


def caption(number: int) -> str:
    words = TEXT.split()
    return " ".join(words[(number + i) % len(words)] for i in range(12 + number % 7)) + "."


def _image(number: int) -> dict[str, Any]:
    return {"bytes": picture(number, 200 + 28 * (number % 5), 200 + 28 * (number % 3)), "path": f"{number}.jpg"}


def _webdataset(path: Path, first: int) -> None:
    """As img2dataset writes it, DataComp's uid in the json."""
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + SAMPLES):
            record = {"uid": uid(number), "caption": caption(number), "url": "", "status": "success"}
            members = {"jpg": _image(number)["bytes"], "txt": caption(number).encode()}
            members["json"] = json.dumps(record | {"original_width": 640, "original_height": 480}).encode()
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _captions(path: Path, first: int) -> None:
    numbers = range(first, first + SAMPLES)
    _write(path, {"id": [str(n) for n in numbers], "caption": [caption(n) for n in numbers]}, "image", IMAGE, numbers)


def _finevision(path: Path, first: int) -> None:
    numbers = range(first, first + SAMPLES)
    texts = [[{"user": "What is it?", "assistant": caption(n)}, {"user": "More?", "assistant": "No."}] for n in numbers]
    columns: dict[str, Any] = {"texts": texts, "source": ["mini"] * SAMPLES}
    for rating in ("relevance", "image_correspondence", "visual_dependency", "formatting"):
        columns |= {
            f"{rating}_ratings": [[n % 5 + 1, 5] for n in numbers],
            f"{rating}_min": [n % 5 + 1 for n in numbers],
        }
    with_images = "text_openorca" not in str(path)
    images = [[_image(n)] if with_images else [] for n in numbers]
    table = pa.table({**columns, "images": pa.array(images, pa.list_(IMAGE))})
    pq.write_table(table, path)


def _write(path: Path, columns: Mapping[str, Any], name: str, kind: pa.DataType, numbers: range) -> None:
    pq.write_table(pa.table({**columns, name: pa.array([_image(n) for n in numbers], kind)}), path)


def _messages(path: Path, first: int) -> None:
    turns = [
        [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": caption(n)}]
        for n in range(first, first + SAMPLES)
    ]
    path.write_text("\n".join(json.dumps({"messages": turn}) for turn in turns))


def _interleaved(path: Path, first: int) -> None:
    numbers = range(first, first + SAMPLES)
    texts = [[caption(n), None, caption(n + 1), None] for n in numbers]
    images = [[None, _image(n), None, _image(n + 1)] for n in numbers]
    pq.write_table(pa.table({"texts": texts, "images": pa.array(images, pa.list_(IMAGE))}), path)


def _llava(path: Path, first: int) -> None:
    """A JSON file with its images beside it, or Parquet with them inside; boxes where the source is of boxes."""
    lines = []
    for number in range(first, first + SAMPLES):
        answer = f"{caption(number)} [12, 20, 96, 110]" if "refcoco" in path.name else caption(number)
        turns = [{"from": "human", "value": "<image>\nWhere is the boat?"}, {"from": "gpt", "value": answer}]
        lines.append({"id": str(number), "image": _image(number), "conversations": turns})
    if path.suffix == ".parquet":
        columns = {name: [line[name] for line in lines] for name in ("id", "conversations")}
        pq.write_table(pa.table({**columns, "image": pa.array([line["image"] for line in lines], IMAGE)}), path)
        return
    for line in lines:
        (path.parent / line["image"]["path"]).write_bytes(line["image"]["bytes"])
    path.write_text(json.dumps([line | {"image": line["image"]["path"]} for line in lines]))


WRITERS = {
    "webdataset": _webdataset,
    "captions": _captions,
    "finevision": _finevision,
    "messages": _messages,
    "interleaved": _interleaved,
    "llava": _llava,
}


# ------------------------------------------------------------------------------------------------ scores


def _write_score(score: object) -> None:
    """Every third sample has a high score, or is listed; the columns are typed as their publishers type them."""
    numbers = range(SAMPLES * 40)
    rng = np.random.default_rng(5)
    columns = {
        "semantic_understanding_score": ["95" if n % 3 == 0 else "not sure" if n % 3 == 1 else "40" for n in numbers],
        "clip_l14_similarity_score": rng.random(len(numbers)),
        "l14_img": rng.normal(size=(len(numbers), 8)).tolist(),
    }
    if isinstance(score, JoinedScore):
        (file,) = (place for path in score.path for place in _places(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        theirs = {name: columns[name] for name in score.columns.values()}
        pl.DataFrame({"uid": [uid(n) for n in numbers], **theirs}).write_parquet(file)
    elif isinstance(score, UidsScore):
        _write_uids(Path(score.path))
    elif isinstance(score, NearestScore):
        Path(score.centres).parent.mkdir(parents=True, exist_ok=True)
        centres = rng.normal(size=(6, 8)).astype(np.float32)
        np.save(score.centres, centres)
        np.save(str(score.targets), centres[:3])


def _write_uids(path: Path) -> None:
    halves = sorted((int(uid(n)[:16], 16), int(uid(n)[16:], 16)) for n in range(0, SAMPLES * 40, 4))
    with path.open("wb") as file:
        np.save(file, np.array(halves, "u8,u8"))
