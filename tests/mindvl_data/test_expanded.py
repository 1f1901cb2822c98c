"""What was taken from the environment is nowhere in what is said or written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
import typer
import yaml
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.errors import UserError
from mindvl_data.expanded import expand, masked, masked_values
from mindvl_data.runtime.terminal import reported
from mindvl_data.steps.scores.chat import NoReply, _reply, _shown
from mindvl_data.tables import ledger
from mindvl_data.tables.schema import LEDGER

SECRET = 'pl4nted "s3cret"/of+the\\builder'
PLANTED = "${PLANTED_SECRET}"
FORMS = {SECRET, quote(SECRET), quote(SECRET, safe=""), repr(SECRET)[1:-1], json.dumps(SECRET)[1:-1]}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_SECRET", SECRET)
    expand(PLANTED)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_value_is_hidden_inside_longer_text_and_however_it_is_written(form: str) -> None:
    assert masked(f"GET https://host/{form}/x failed") == f"GET https://host/{PLANTED}/x failed"
    assert str(UserError(f"{form}: no such file")) == f"{PLANTED}: no such file"
    assert masked_values({form: [form, 1, None]}) == {PLANTED: [PLANTED, 1, None]}


def failing(error: type[Exception]) -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as first:
        raise error(f"no {SECRET} \x1b[2J") from first


@pytest.mark.parametrize("error", [ValueError, UserError, OSError])
def test_a_traceback_has_it_nowhere(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reported(debug=True):
        failing(error)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert f"no {PLANTED} ␛[2J" in said
    assert not any(form in said for form in FORMS)


def test_a_short_value_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT", "train")
    expand("${SPLIT}")
    assert masked("train") == "train"


def test_an_endpoint_that_echoes_the_key_puts_it_nowhere() -> None:
    assert SECRET not in _shown(b"x" * 190 + SECRET.encode())
    assert not any(part in _shown(b"x" * 190 + SECRET.encode()) for part in ("pl4", "s3c"))
    said = json.dumps({"choices": [{"message": {"content": f"your key is {SECRET}"}}]}).encode()
    assert _reply(said).text == f"your key is {PLANTED}"
    with pytest.raises(NoReply) as failure:
        _reply(SECRET.encode())
    assert SECRET not in str(failure.value) + failure.value.why


def test_a_ledger_has_it_nowhere(tmp_path: Path) -> None:
    line = {"sample_id": b"0" * 16, "source": "a", "locator": f"{SECRET}#1", "step": "filter", "reason": "filtered"}
    frame = pl.DataFrame({name: [value] for name, value in {**line, "detail": f"name: {SECRET} > 1"}.items()})
    ledger.write(tmp_path, "filter", [frame.select(LEDGER.names)])
    found = pl.read_parquet(tmp_path / "filter.parquet")
    assert found["locator"].to_list() == [f"{PLANTED}#1"]
    assert found["detail"].to_list() == [f"name: {PLANTED} > 1"]


def texts(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of every value of a recipe that is no mapping or list."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from texts(value, (*path, key))
    else:
        yield path


def test_planted_in_any_key_of_a_recipe_it_is_in_no_message_and_no_file(
    recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load((recipe_folder / "recipe.yaml").read_text())
    endpoint = {
        "endpoint": "http://127.0.0.1:9/v1",
        "model": "m",
        "api_key": None,
        "preset": "mlm_filter",
        "by": "judge",
    }
    for where in [*texts(recipe), *(("scores", "judged", key) for key in endpoint)]:
        changed = yaml.safe_load((recipe_folder / "recipe.yaml").read_text())
        if where[0] == "scores":
            changed["scores"] = {"judged": dict(endpoint)}
        node = changed
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = PLANTED
        path = recipe_folder / "planted.yaml"
        path.write_text(yaml.safe_dump(changed))
        if where[-1] in ("kind", "licence", "name", "seed"):
            continue  # these build: see the next test
        result = CliRunner().invoke(app, ["plan", str(path), "--out", str(tmp_path / "out"), "--workers", "1"])
        assert not any(form in result.output.replace("\n", "") for form in FORMS), (where, result.output)


def test_what_is_built_has_it_nowhere(recipe_folder: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((recipe_folder / "recipe.yaml").read_text())
    recipe["filters"][0]["name"] = f"wide {PLANTED}"
    source = next(iter(recipe["sources"].values()))
    source["kind"] = source["licence"] = f"a {PLANTED}"
    recipe["stages"] = dict([next(iter(recipe["stages"].items()))])
    recipe.pop("holdout", None)
    path = recipe_folder / "planted.yaml"
    path.write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(app, ["build", str(path), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert not any(form in result.output for form in FORMS)
    assert result.exit_code == 0, result.output
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            if file.suffix == ".parquet":
                content = repr(pl.read_parquet(file).to_dicts()).encode()
            assert not any(form.encode() in content for form in FORMS), file
