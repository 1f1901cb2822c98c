"""One sample's story: where it came from, what kept or dropped it, where each of its draws went.

Reads the build folder alone: the samples table, the ledger and the draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mindvl_data.errors import UserError
from mindvl_data.inspect.thumbnails import thumbnail
from mindvl_data.manifest import FILE_NAME, Manifest, pack_at, read_manifest
from mindvl_data.media import MediaReader
from mindvl_data.recipe import Boxes
from mindvl_data.runtime.mirror import looked_at
from mindvl_data.tables.samples import tables_of
from mindvl_data.tables.schema import BOXES, SAMPLES_INDEX, Part
from mindvl_data.tokenise.grounding import BadBox, grounded
from mindvl_data.vision import Resolution

FACTS = ["source", "file", "key", "uid", "num_turns", "text_chars", "num_images", "width", "height", "image_bytes"]
# Of one sample: a screen.
MOST_PICTURES = 4


class ExplainError(UserError):
    """A sample or place that is not to be found; the message says where it was looked for."""


def sample_at(manifest: Manifest, number: int, token: int) -> bytes:
    """The id of the sample that token `token` of pack `number` belongs to. Raises ExplainError on padding."""
    pack = pack_at(manifest, number)
    if not 0 <= token < pack.seq_len:
        raise ExplainError(f"--token {token}: the tokens of a pack are 0 to {pack.seq_len - 1}")
    segment = int(np.searchsorted(pack.cu_seqlens, token, side="right")) - 1
    if segment >= len(pack.sample_ids):
        raise ExplainError(f"token {token} of pack {number} is padding: its samples end at {pack.num_tokens}")
    return pack.sample_ids[segment]


def stories(manifest: Manifest, name: str) -> list[dict[str, Any]]:
    """The stories of the samples called `name`: a sample id in hexadecimal, a uid, or a key.

    Of a set in a store its build's tables are brought here first.

    Raises ExplainError when no sample, kept or dropped, is called so, and where there are no tables beside the set.
    """
    build = looked_at(manifest.build_folder) if manifest.store is not None else manifest.path.parent.parent
    if manifest.store is not None and not (build / "samples" / SAMPLES_INDEX).is_file():
        raise ExplainError(
            f"{manifest.where}: has the packs, not the story of sample {name}; the samples table and the ledger are in "
            f"the folder where the build was made: explain {manifest.store.rpartition('/')[2]} there"
        )
    ids = _ids(build, name)
    if not ids:
        raise ExplainError(f"{name}: no sample of {build} has this id, uid or key; is it of another build?")
    return [_story(build, uid) for uid in ids]


def _ids(build: Path, name: str) -> list[bytes]:
    """Ids that `name` can mean, among the samples kept and those dropped."""
    kept, dropped = _samples(build, ["sample_id", "key", "uid"]), _ledger(build)
    # A uid of DataComp looks like an id: both are 32 hexadecimal digits.
    if _is_id(name):
        uid = bytes.fromhex(name)
        if any(len(lines.filter(pl.col("sample_id") == uid).head(1).collect()) for lines in (kept, dropped)):
            return [uid]
    by_name = kept.filter((pl.col("key") == name) | (pl.col("uid") == name))
    by_place = dropped.filter(pl.col("locator").str.ends_with(f"#{name}"))
    return sorted({uid for lines in (by_name, by_place) for uid in lines.select("sample_id").collect()["sample_id"]})


def _is_id(name: str) -> bool:
    try:
        return len(bytes.fromhex(name)) == 16
    except ValueError:
        return False


def _samples(build: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """Lines of the samples tables that the last build used, with the source and file of each, and its row there."""
    frames = [
        pl.scan_parquet(build / "samples" / table["samples"], row_index_name="row")
        .select("row", *columns)
        .with_columns(
            pl.col("sample_id").cast(pl.Binary),
            source=pl.lit(table["source"]),
            file=pl.lit(table["file"]),
            samples=pl.lit(table["samples"]),
            scores=pl.lit("/".join(table["scores"])),
            rewritten=pl.lit(table["rewritten"]),
        )
        for table in tables_of(build)
    ]
    return pl.concat(frames)


def _ledger(build: Path) -> pl.LazyFrame:
    return pl.concat([pl.scan_parquet(path) for path in sorted((build / "ledger").glob("*.parquet"))])


def sets(build: Path) -> list[Path]:
    """The packed sets of a build folder."""
    return sorted(path.parent for path in build.glob(f"*/{FILE_NAME}"))


def _story(build: Path, uid: bytes) -> dict[str, Any]:
    samples = _samples(build, ["sample_id", *FACTS[2:], "images", "parts"])
    line, drops = (lines.filter(pl.col("sample_id") == uid).collect() for lines in (samples, _ledger(build)))
    beside = _beside(build, line) if len(line) else {}
    objects = beside.pop(BOXES, None)
    draws = {folder.name: _draws(folder, uid) for folder in sets(build)}
    return {
        "sample_id": uid.hex(),
        "facts": line.select(FACTS).to_dicts()[0] if len(line) else {},
        "images": [
            {key: value for key, value in image.items() if key != "sha256"}
            for image in (line["images"].to_list()[0] if len(line) else [])
        ],
        "scores": beside,
        "rewritten": _rewritten(build, line) if len(line) else {},
        "dropped": drops.drop("sample_id").to_dicts(),
        "draws": draws,
        "not_drawn": {} if len(drops) or not len(line) else _not_drawn(build, line["source"][0], draws),
        "texts": {folder.name: texts for folder in sets(build) if (texts := _texts(folder, line, objects))},
    }


def _rewritten(build: Path, line: pl.DataFrame) -> dict[str, list[str]]:
    """A sample's texts before and after a model wrote them anew; nothing where none did."""
    uid, table = line["sample_id"][0], build / "samples" / line["rewritten"][0]
    rows = pl.scan_parquet(table).filter(pl.col("sample_id").cast(pl.Binary) == uid).select("parts").collect()
    before, after = ([part["text"] for part in parts if part["text"]] for parts in (line["parts"][0], rows["parts"][0]))
    return {} if before == after else {"from": before, "to": after}


def _beside(build: Path, line: pl.DataFrame) -> dict[str, Any]:
    """What stands beside the samples table for a sample: fields of its data that rules name, and its scores."""
    row = line["row"][0]
    fields = (build / "samples" / line["samples"][0]).with_suffix(".columns.parquet")
    files = [
        *([fields] if fields.exists() else []),
        *(build / "scores" / name for name in line["scores"][0].split("/") if name),
    ]
    found: dict[str, Any] = {}
    for file in files:
        columns = pl.scan_parquet(file).slice(row, 1).collect()
        found |= {column.name: column[0] for column in columns if not column.dtype.is_nested()}
    return found


def _texts(folder: Path, line: pl.DataFrame, objects: str | None) -> list[str]:
    """The sample's texts as a set has them, where that differs from set to set: where boxes are rewritten."""
    if not len(line):
        return []
    data = read_manifest(folder).data
    source = line["source"][0]
    how = data["recipe"]["sources"].get(source, {}).get("boxes")
    if how is None or source not in data["sources"]:
        return []
    rule = Boxes.model_validate(how)
    parts = [Part(**part) for part in line["parts"][0]]
    sizes = [(image["width"], image["height"]) for image in line["images"][0]]
    try:
        found = grounded(parts, sizes, rule, objects)
    except BadBox:
        return []  # why is in the ledger
    return [part.text for part in found.at(Resolution.of(data["resolution"])) if part.text] if found else []


def _draws(folder: Path, uid: bytes) -> list[dict[str, Any]]:
    manifest = read_manifest(folder)
    table = pl.scan_parquet(folder / manifest.data["draws"]["path"]).with_columns(pl.col("sample_id").cast(pl.Binary))
    return table.filter(pl.col("sample_id") == uid).drop("sample_id").collect().to_dicts()


def _not_drawn(build: Path, source: str, draws: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """For every set that draws nothing of a kept sample, why."""
    held = next((name for name, found in draws.items() if found and _mixture(build / name) is None), None)
    return {name: _why(_mixture(build / name), source, held) for name, found in draws.items() if not found}


def _mixture(folder: Path) -> Mapping[str, Any] | None:
    """The sources of a set's mixture; None of the held-out set, which has none."""
    data = read_manifest(folder).data
    return None if data["stage"] == "holdout" else data["mixture"]["sources"]


def _why(mixture: Mapping[str, Any] | None, source: str, held: str | None) -> str:
    if mixture is None:
        return "it is not held out"
    if held is not None:
        return f"it is held out, in {held}: no stage draws it"
    if source not in mixture:
        return f"the stage's mixture has no {source}"
    passes = mixture[source]["actual"]["epochs"]
    if passes >= 1:
        return f"every sample of {source} that fits this set is drawn {int(passes)} times or more"
    return (
        f"the stage's budget takes {passes:.1%} of {source}, and the seed's order puts this one behind them: a larger "
        f"budget or share draws it"
    )


def view(story: Mapping[str, Any], media: MediaReader | None = None) -> RenderableType:
    """A story for a person. media: reads the pictures, where the terminal shows them."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("sample", style="bold"), story["sample_id"])
    for name, value in story["facts"].items():
        if value is not None:
            facts.add_row(Text(name, style="bold"), Text(str(value)))
    for number, image in enumerate(story["images"]):
        size = f"{image['width']} × {image['height']} {image['format']}"
        place = f"{image['uri']} [{image['offset']}, +{image['size']}] {size}"
        facts.add_row(Text("image", style="bold"), Text(place))
        if media is not None and number < MOST_PICTURES:
            facts.add_row("", thumbnail(image, media))
    for name, value in story["scores"].items():
        facts.add_row(Text(name, style="bold"), Text("null" if value is None else str(value)))
    for name, texts in story["rewritten"].items():
        facts.add_row(Text(f"rewritten {name}", style="bold"), Text("\n".join(texts)))
    for drop in story["dropped"]:
        cut = drop["reason"] == "truncated"
        why = f"{drop['step']}: {drop['reason']} {drop['detail']} ({drop['locator']})"
        facts.add_row(Text("cut" if cut else "dropped", style="" if cut else "red"), Text(why))
    for name, texts in story["texts"].items():
        facts.add_row(Text(f"text in {name}", style="bold"), Text("\n".join(texts)))
    for name, draws in story["draws"].items():
        why = story["not_drawn"].get(name)
        facts.add_row(Text(name, style="bold"), Text(_drawn(draws) + (f": {why}" if why else "")))
    return Group(facts)


def _drawn(draws: Sequence[Mapping[str, Any]]) -> str:
    places = [
        f"repeat {d['repeat']}: shard {d['shard']}, pack {d['pack']}, tokens {d['start']}–{d['stop']}" for d in draws
    ]
    return "\n".join(places) or "not drawn"
