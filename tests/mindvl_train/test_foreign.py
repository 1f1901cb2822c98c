"""The trainer's commands over a set, or a run, that came from somebody else: they ask nobody, and tell nobody."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from mindvl_data.expanded import expand
from mindvl_data.manifest import write_manifest
from mindvl_data.note import LOCAL_FILE
from mindvl_data.shards import PackImage
from mindvl_train.cli import app
from mindvl_train.config.run_folder import RECORD
from mindvl_train.terminal import or_exit
from tests.conftest import QUICKSTART
from tests.listening import listening as listening_server
from tests.mindvl_train.synthetic import mixed_packs, write_data_set, write_run

SECRET = "s3cr3t-of-the-reader"
SETS = ("first", "second", "holdout")


@pytest.fixture
def listening() -> Iterator[tuple[str, list[str]]]:
    with listening_server() as found:
        yield found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, of nobody's."""
    folder = tmp_path_factory.mktemp("trained")
    ended = command("run", write_run(folder))
    assert ended.exit_code == 0, ended.output
    return folder / "run"


@pytest.fixture
def foreign(
    tmp_path: Path, trained: Path, listening: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[object, ...]]:
    """The commands: over sets whose images lie where a secret would be sent, and over a run that began from there."""
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SECRET_KEY", SECRET)
    url = f"{listening[0]}/${{SECRET_KEY}}"
    config = write_run(tmp_path)
    for name in SETS:
        folder = tmp_path / "sets" / name
        packs = [
            replace(pack, images=tuple(_elsewhere(image, f"{url}/x.png") for image in pack.images))
            for pack in mixed_packs(6, 24 if name != "second" else 32)
        ]
        path = write_data_set(folder, packs)
        data = json.loads(path.read_text())
        data["recipe"] = {"sources": {"a": {"path": f"{url}/*.tar", "images": url}}, "tokenizer": f"{url}/t"}
        data["tokenizer"]["name"] = f"{url}/tokenizer.json"
        write_manifest(folder, data)
    note = {"recipe_folder": "/", "recipe": "r.yaml", "roots": [url], "tokenizer": f"{url}/t"}
    (tmp_path / "sets" / LOCAL_FILE).write_text(json.dumps(note))
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"data": str(tmp_path / "sets")}))
    record = json.loads((trained / RECORD).read_text())
    (trained / RECORD).write_text(json.dumps(record | {"data": url}))
    held_out = tmp_path / "sets" / "holdout" / "manifest.json"
    return {
        "run": ("run", config),
        "plan": ("plan", config),
        "evaluate": ("evaluate", trained, held_out),
        "resolve": ("resolve", trained, "--eval", held_out, "--min-pixels", "3136", "--max-pixels", "50176"),
        "generate": ("generate", trained, "?"),
        "generate with a tokenizer": ("generate", trained, "?", "--tokenizer", QUICKSTART / "tokenizer.json"),
        "export": ("export", trained, "--out", tmp_path / "exported"),
        "report": ("report", trained, "--out", tmp_path / "report.html"),
    }


def _elsewhere(image: PackImage, uri: str) -> PackImage:
    return replace(image, data=None, sha256=None, uri=uri, offset=0, size=100)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


NAMES = ("run", "plan", "evaluate", "resolve", "generate", "generate with a tokenizer", "export", "report")


@pytest.mark.parametrize("name", NAMES)
def test_a_command_asks_nobody(
    name: str, foreign: dict[str, tuple[object, ...]], listening: tuple[str, list[str]]
) -> None:
    ended = command(*foreign[name])
    assert not listening[1]
    assert SECRET not in ended.output
    assert "Traceback" not in ended.output
    # What reads the sets' pictures says what to name.
    assert ("allow" in ended.output) == (name in ("run", "evaluate", "resolve")), ended.output


def test_what_the_user_names_is_asked_and_no_variable_is_expanded(
    foreign: dict[str, tuple[object, ...]], listening: tuple[str, list[str]]
) -> None:
    """So that the server of the tests above would have heard."""
    url, heard = listening
    ended = command(*foreign["evaluate"], "--allow", url)
    assert heard, ended.output
    assert not any(SECRET in path for path in heard)


def test_a_traceback_tells_no_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SECRET_KEY", SECRET)
    expand("${SECRET_KEY}")

    def fail() -> None:
        raise ValueError(f"http://host/{SECRET}")

    for debug in (False, True):
        with pytest.raises(typer.Exit):
            or_exit(fail, debug)
        said = capsys.readouterr().err
        assert "Traceback" in said
        assert "http://host/${SECRET_KEY}" in said
        assert SECRET not in said
