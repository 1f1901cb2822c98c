"""A first recipe: whatever lies there, what it says builds, and what it leaves out is named."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.errors import UserError
from mindvl_data.inspect.start import Started, start
from mindvl_data.inspect.start.find import groups
from mindvl_data.inspect.start.names import named
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png

DATA = QUICKSTART / "data"


def started(folder: Path, *paths: str) -> Started:
    shutil.copy(QUICKSTART / "tokenizer.json", folder)
    return start(paths or [str(folder)], folder / "recipe.yaml")


def sources(made: Started) -> dict[str, dict]:
    return yaml.safe_load(made.path.read_text())["sources"]


def captions(path: Path, texts: list[str], **more: object) -> None:
    """JSON Lines of captions with a picture beside them each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, text in enumerate(texts):
        (path.parent / f"{path.stem}-{number}.png").write_bytes(png(number, (80, 80)))
        lines.append(json.dumps({"image": f"{path.stem}-{number}.png", "caption": text, **more}))
    path.write_text("\n".join(lines))


def test_a_folder_becomes_a_recipe_that_builds(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "mine")
    made = started(tmp_path, str(tmp_path / "mine"))
    assert list(sources(made)) == ["captions", "documents", "text", "videos", "vqa"]
    assert sources(made)["captions"]["path"] == "mine/captions-*.tar"
    assert made.draft.tokenizer_there
    report = build(load_recipe(made.path), tmp_path / "out")
    assert {line.source for line in report.funnel if line.left} == set(sources(made))
    assert report.stages[0].data["packing"]["packs"] > 0


def test_sources_of_other_scripts_get_filters_that_keep_them(tmp_path: Path) -> None:
    captions(tmp_path / "zh.jsonl", ["海边停着一条小船", "三只海鸥在争面包", "一座红色的桥", "山上有一座小屋"] * 3)
    captions(tmp_path / "short.jsonl", ["boat", "gull", "bridge"] * 4)
    made = started(tmp_path)
    text = made.path.read_text()
    assert 'words >= 3", sources: [zh]' in text
    assert "counts a Chinese character as one" in text
    assert "Chinese or Japanese characters 100%" in text
    report = build(load_recipe(made.path), tmp_path / "out")
    filtered = [line for line in report.funnel if line.step == "filter"]
    assert all(line.left == line.entered for line in filtered)


def test_what_is_no_source_is_named_with_its_reason(tmp_path: Path) -> None:
    shutil.copy(DATA / "captions-000.tar", tmp_path / "00000.tar")
    (tmp_path / "00000.parquet").write_bytes(b"metadata")
    (tmp_path / "00000_stats.json").write_text("{}")
    captions(tmp_path / "test" / "exam.jsonl", ["a question"])
    (tmp_path / "broken.jsonl").write_text("{nothing\n")
    (tmp_path / "a ${HOME}.jsonl").write_text("")
    made = started(tmp_path)
    assert len(sources(made)) == 1
    why = {Path(path).name: said for path, said in made.unused}
    assert why["00000.parquet"].startswith("and 1 more there: what is known of the tar beside it")
    assert "by its name a set to evaluate on" in why["exam.jsonl"]
    assert "no reader makes a sample of it" in why["broken.jsonl"]
    assert "no recipe can write its name" in why["a ${HOME}.jsonl"]
    assert "# not used: broken.jsonl" in made.path.read_text()


def test_a_source_with_bad_records_builds_and_says_so(tmp_path: Path) -> None:
    captions(tmp_path / "mixed.jsonl", ["one of many captions"] * 20)
    (tmp_path / "mixed-3.png").unlink()
    made = started(tmp_path)
    assert sources(made)["mixed"]["max_bad"] == pytest.approx(0.1)
    assert "1 of the first 20 records are no samples (1 missing_image)" in made.path.read_text()
    build(load_recipe(made.path), tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["a [b] *.jsonl", "a {b,c}.jsonl", "ünï 名前.jsonl", "yes.jsonl", "a: b #c.jsonl", "1.jsonl", "epochs.jsonl"],
)
def test_whatever_a_file_is_called_its_recipe_reads_it(tmp_path: Path, name: str) -> None:
    captions(tmp_path / name, ["a boat lies at the quay"] * 3)
    made = started(tmp_path)
    assert build(load_recipe(made.path), tmp_path / "out").funnel[0].left == 3


def test_files_that_differ_in_numbers_or_are_many_are_one_source(tmp_path: Path) -> None:
    names = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "other.jsonl"]
    names += [f"hashed/{name}.jsonl" for name in ("ab", "bc", "cd", "de", "ef", "fg", "gh")]
    names += [f"deep/{shard:02}/part.jsonl" for shard in range(3)]
    for name in names:
        captions(tmp_path / name, ["a boat lies at the quay"])
    found, unused = groups([str(tmp_path)])
    patterns = sorted(str(Path(pattern).relative_to(tmp_path)) for group in found for pattern in group.patterns)
    assert patterns == ["deep/*/part.jsonl", "hashed/*.jsonl", "other.jsonl", "train-*-of-*.jsonl"]
    assert sum(group.files for group in found) == len(names)
    assert unused == []
    assert {"deep", "hashed", "other"} < set(named(found))


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("cats/train.jsonl", "dogs/train.jsonl", "birds/captions.jsonl", "fish/captions.jsonl"):
        captions(tmp_path / name, ["a boat lies at the quay"])
    found, _ = groups([str(tmp_path)])
    names = dict(zip([Path(group.first).parent.name for group in found], named(found), strict=True))
    assert names == {"cats": "cats", "dogs": "dogs", "birds": "birds_captions", "fish": "fish_captions"}


def test_globs_files_and_urls_are_taken_as_they_are(tmp_path: Path) -> None:
    tar = str(DATA / "captions-*.tar")
    made = started(tmp_path, tar, str(DATA / "text.jsonl"), f"file://{DATA}/vqa.parquet")
    assert list(sources(made)) == ["captions", "text", "vqa"]
    assert sources(made)["vqa"]["path"].startswith("file://")
    assert build(load_recipe(made.path), tmp_path / "out").stages


def test_a_folder_that_says_what_is_in_it_is_one_source(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["one text", "another text"]})
    rows.save_to_disk(str(tmp_path / "saved"))
    made = started(tmp_path, str(tmp_path / "saved"))
    assert [source["path"] for source in sources(made).values()] == ["saved"]
    assert build(load_recipe(made.path), tmp_path / "out").funnel[0].left == 2


def test_nothing_to_begin_with_is_said(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(1, (80, 80)))
    with pytest.raises(UserError, match="1 pictures, and no file that says what they show"):
        started(tmp_path, str(tmp_path / "pictures"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no file in it ends in \.tar"):
        started(tmp_path, str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no such file or folder"):
        started(tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no file matches"):
        started(tmp_path, str(tmp_path / "*.tar"))
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(UserError, match="is there already"):
        started(tmp_path)


def test_a_build_s_own_folders_are_left_out(tmp_path: Path) -> None:
    captions(tmp_path / "a.jsonl", ["a boat lies at the quay"] * 3)
    made = started(tmp_path)
    build(load_recipe(made.path), tmp_path / "build" / "x")
    made.path.unlink()
    assert list(sources(started(tmp_path))) == ["a"]


def test_the_command_says_what_it_found_and_what_is_next(tmp_path: Path) -> None:
    buffer = io.BytesIO(b"a boat lies at the quay")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in (("0.txt", buffer.getvalue()), ("0.png", png(0, (80, 80)))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    result = CliRunner().invoke(app, ["init", str(tmp_path), "--out", str(tmp_path / "new.yaml")])
    assert result.exit_code == 0, result.stderr
    assert "x: 1 file; 1.0 pictures a sample" in result.stdout
    assert "Next: python -m mindvl_data check" in result.stdout
    assert CliRunner().invoke(app, ["init", str(tmp_path), "--out", str(tmp_path / "new.yaml")]).exit_code == 2


def test_pictures_with_a_text_file_beside_each_are_listed_and_build(tmp_path: Path) -> None:
    folder = tmp_path / "fotos (1)"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(["été #1", "50% [a]", "more/图片", "without"]):
        (folder / f"{name}.PNG").write_bytes(png(number, (80, 80)))
        if name != "without":
            (folder / f"{name}.txt").write_text(f"a boat lies at quay {name}\n")
    made = started(tmp_path, str(folder))
    assert made.lists == [(f"{folder}/captions.jsonl", "3 of 4 pictures, by the text file beside each")]
    report = build(load_recipe(made.path), tmp_path / "out")
    (scan,) = [line for line in report.funnel if line.step == "scan"]
    assert (scan.entered, scan.left) == (3, 3)
    before = (folder / "captions.jsonl").read_bytes()
    (folder / "without.txt").write_text("now it has one")
    (tmp_path / "recipe.yaml").unlink()
    assert started(tmp_path, str(folder)).lists == []
    assert (folder / "captions.jsonl").read_bytes() == before


def test_of_a_table_without_names_that_we_know_its_names_are_said(tmp_path: Path) -> None:
    captions(tmp_path / "b.jsonl", ["a boat lies at the quay"] * 3)
    (tmp_path / "liste.csv").write_text("datei;Bildunterschrift\nb-0.png;Ein Boot am Steg\n")
    why = {Path(path).name: said for path, said in started(tmp_path).unused}
    assert "its fields: datei, Bildunterschrift; `columns: {caption: FIELD}`" in why["liste.csv"]
