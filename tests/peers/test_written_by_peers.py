"""MDS and Energon folders as their own libraries write them, read whole."""

import io
import json
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.sources import Asked, SourceError
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read
from tests.peers.environment import run

pytestmark = pytest.mark.slow


def files(folder: Path, name: str) -> list[SourceFile]:
    return source_files((name,), (name,), None, folder, FingerprintCache())


def captions(found: Scanned) -> list[str]:
    return [part["text"] for line in found.kept for part in line["parts"] if part["text"] is not None]


CODECS = ["zstd", "gz", "bz2", "br", "snappy"]


@pytest.fixture(scope="module")
def mds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the same five samples, one `plain` and one for each codec."""
    folder = tmp_path_factory.mktemp("mds")
    (folder / "images").mkdir()
    for number in range(5):
        (folder / "images" / f"{number}.png").write_bytes(png(number))
    run("mds", Path(__file__).with_name("write_mds.py"), folder / "images", folder, "40kb", *CODECS)
    return folder


def same_pictures(found: list[Scanned]) -> bool:
    pictures = [scan.image(i) for scan in found for i in range(len(scan.kept))]
    pairs = zip(pictures, map(png, range(5)), strict=True)
    return all(Image.open(io.BytesIO(a)).tobytes() == Image.open(io.BytesIO(b)).tobytes() for a, b in pairs)


def test_mds_as_mosaicml_streaming_writes_it(mds: Path) -> None:
    shards = files(mds, "plain")
    assert [shard.path for shard in shards] == [f"plain/shard.{i:05d}.mds" for i in range(len(shards))]
    assert len(shards) > 1
    found = [read(Path(shard.place), "captions", asked=Asked(keep=("score", "number"))) for shard in shards]
    assert [text for scan in found for text in captions(scan)] == [f"caption {i} ü" for i in range(5)]
    assert [line["number"] for scan in found for line in scan.data] == list(range(5))
    assert [line["score"] for scan in found for line in scan.data] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert same_pictures(found)
    assert all(scan.media == b"" for scan in found), "an image lies as one range in its shard"


@pytest.mark.parametrize("codec", CODECS)
def test_mds_as_mosaicml_streaming_compresses_it(mds: Path, tmp_path: Path, codec: str) -> None:
    shards = files(mds, codec)
    assert {shard.path.rpartition(".")[2] for shard in shards} == {codec}
    found = [read(Path(shard.place), "captions") for shard in shards]
    assert [text for scan in found for text in captions(scan)] == [f"caption {i} ü" for i in range(5)]
    assert same_pictures(found)
    packed = tmp_path / Path(shards[0].place).name
    packed.write_bytes(Path(shards[0].place).read_bytes()[:-30])
    with pytest.raises(SourceError, match=rf"shard\.00000\.mds\.{codec}: cannot be read as"):
        read(packed, "captions")


def energon(tmp_path: Path, kind: str, fields: dict[str, str]) -> Path:
    """Three tars of two samples, prepared by Energon: two for training, one not."""
    folder = tmp_path / "energon"
    folder.mkdir()
    for shard in range(3):
        with webdataset.TarWriter(str(folder / f"shard-{shard}.tar")) as writer:
            for number in (2 * shard, 2 * shard + 1):
                meta = {"question": f"what is {number}?", "uid": f"u{number}", "answers": [f"it is {number}"]}
                writer.write({"__key__": f"{number:04d}", "png": png(number), "txt": f"text {number}", "json": meta})
    command = ["-c", "from megatron.energon.cli.main import main; main()", "prepare", folder, "--non-interactive"]
    parts = ["--split-parts", "train:shard-{0..1}.tar", "--split-parts", "val:shard-2.tar"]
    run("energon", *command, *parts, "--sample-type", kind, "--field-map", json.dumps(fields), "--num-workers", "1")
    return folder


def test_energon_captions_as_energon_prepares_them(mds: Path, tmp_path: Path) -> None:
    energon(tmp_path, "CaptioningSample", {"image": "png", "caption": "txt"})
    shards = files(tmp_path, "energon")
    assert [shard.path for shard in shards] == ["energon/shard-0.tar", "energon/shard-1.tar"]
    found = read(Path(shards[1].place), "energon")
    assert (captions(found), found.drops) == (["text 2", "text 3"], {})
    assert [line["uid"] for line in found.kept] == ["u2", "u3"]
    assert [found.image(0), found.image(1)] == [png(2), png(3)]
    sources = {
        "energon": {"format": "energon", "path": str(tmp_path / "energon"), "kind": "caption", "render": "caption"},
        "mds": {"format": "captions", "path": str(mds / "plain"), "kind": "caption"},
        "packed_mds": {"format": "captions", "path": str(mds / "gz"), "kind": "caption"},
    }
    mixture = dict(zip(sources, (0.4, 0.3, 0.3), strict=True))
    stages = {"only": {"seq_len": 512, "budget": {"tokens": 3000}, "max_epochs": 99, "mixture": mixture}}
    tokenizer = str(QUICKSTART / "tokenizer.json")
    recipe = {"name": "peers", "tokenizer": tokenizer, "sources": sources, "stages": stages}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    report = build(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    packs = list(packs_of(read_manifest(report.out / "only-512")))
    text = "".join(load_tokeniser("tokenizer.json", QUICKSTART).decode(pack.tokens.tolist()) for pack in packs)
    assert {name for pack in packs for name in pack.sources} == set(sources)
    assert "text 2" in text
    assert "caption 4 ü" in text
    shown = {Image.open(io.BytesIO(image.data or b"")).tobytes() for pack in packs for image in pack.images}
    assert shown <= {Image.open(io.BytesIO(png(i))).tobytes() for i in range(6)}


def test_energon_questions_and_what_only_code_can_read(tmp_path: Path) -> None:
    folder = energon(tmp_path, "VQASample", {"image": "png", "context": "json[question]", "answers": "json[answers]"})
    found = read(folder / "shard-0.tar", "energon")
    assert captions(found) == ["what is 0?", "it is 0", "what is 1?", "it is 1"]
    (folder / ".nv-meta" / "dataset.yaml").write_text("__class__: CrudeWebdataset\n__module__: megatron.energon\n")
    with pytest.raises(SourceError, match=r"dataset\.yaml: samples of the type Crude .* which is never run here"):
        read(folder / "shard-0.tar", "energon")
