"""Folders that do not fit, damaged ones, and work that is cut short: one message, and nothing half-written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mindvl_data.errors import UserError
from mindvl_train.cli import app
from mindvl_train.weights import tensor_files
from mindvl_train.weights.imported import ImportedError, read_imported
from mindvl_train.weights.published.exporting import export_model
from mindvl_train.weights.published.family import PublishedError
from mindvl_train.weights.published.importing import import_model
from tests.mindvl_train.weights.published.test_round_trip import publish


def test_a_type_that_weights_are_not_written_in(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["import", str(tmp_path), "--out", str(tmp_path / "o"), "--dtype", "int8"])
    assert result.exit_code == 2
    assert "--dtype int8: weights are written in float32, bfloat16, float16" in result.stderr


def _change(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
    """Alters a tensor of a folder, or takes it away."""
    tensors = load_file(folder / "model.safetensors")
    tensor = tensors.pop(name)
    save_file(tensors | ({name: change(tensor)} if change else {}), folder / "model.safetensors")


def test_weights_that_do_not_fit_are_listed_with_their_shapes(tmp_path: Path) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    _change(published, "model.norm.weight", None)
    _change(published, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor[:7].contiguous())
    _change(published, "visual.blocks.0.norm1.weight", lambda tensor: tensor.reshape(2, -1))
    arguments = ["import", str(published), "--out", str(tmp_path / "ours")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    for part in (
        "model.norm.weight [24] is missing",
        "model.layers.1.mlp.up_proj.weight is [7, 24], expected [32, 24]",
        "visual.blocks.0.norm1.weight is [2, 16], expected [32]",
    ):
        assert part in result.stderr
    assert not (tmp_path / "ours").exists()
    assert not list(tmp_path.glob(".unfinished*"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: _cut(folder / "model.safetensors"), r"model.safetensors: cannot be read .* fetch the folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model.safetensors: cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (lambda folder: _instead(folder, "pytorch_model.bin"), "pytorch_model.bin is a pickle, .* save_pretrained"),
        (lambda folder: _instead(folder, "adapter_config.json"), "holds an adapter: merge it into its model"),
        (
            lambda folder: (folder / "tokenizer.json").rename(folder / "vocab.json"),
            "has vocab.json and no tokenizer.json; write one",
        ),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: holds no JSON object"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json: is not JSON"),
        (lambda folder: _index(folder, {"a": "none.safetensors"}), "none.safetensors: cannot be read"),
        (lambda folder: _index(folder, {"a": "../secret"}), r"names '../secret', which is not a file beside it"),
        (lambda folder: _index(folder, None), "model.safetensors.index.json: is no index of weights"),
        (lambda folder: _dtype(folder, "int4"), "states the type 'int4'; known: float32"),
    ],
)
def test_a_damaged_folder_is_one_message_and_leaves_nothing(
    tmp_path: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    break_it(published)
    if "states the type" in message:
        import_model(published, None, tmp_path / "ours", seed=0)
        arguments = ["export", str(tmp_path / "ours"), "--out", str(tmp_path / "out")]
    else:
        arguments = ["import", str(published), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.exception
    assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".unfinished*"))


def _instead(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)


def _index(folder: Path, weight_map: dict[str, str] | None) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _dtype(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": name}))


@pytest.mark.parametrize("step", ["import", "export"])
def test_what_is_interrupted_leaves_nothing_and_is_done_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish("Qwen2.5-ViT + Qwen3", tmp_path / "published")
    import_model(published, None, tmp_path / "ours", seed=0)

    def work() -> None:
        if step == "import":
            import_model(published, None, tmp_path / "out", seed=0)
        else:
            export_model(tmp_path / "ours", tmp_path / "out")

    written: list[Path] = []

    def save(tensors: Any, path: Path, **settings: Any) -> None:
        written.append(path)
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tensor_files, "save_file", save)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert written
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".unfinished*"))
    # A process that was killed outright leaves its half beside; the next one takes it away.
    half = tmp_path / ".unfinished-out"
    half.mkdir()
    (half / "9.unfinished").write_bytes(b"half")
    work()
    assert not half.exists()
    assert not list((tmp_path / "out").rglob("*unfinished*"))
    if step == "export":
        assert (tmp_path / "out" / "language" / "model.safetensors").exists()


def test_a_tensor_without_a_place_is_an_error(tmp_path: Path) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    config = json.loads((published / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishedError, match=r"model.layers.2.input_layernorm.weight \[24\] has no place in the model"):
        import_model(published, None, tmp_path / "ours", seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "its model_type is 'gpt2'; known: .*qwen2_5_vl"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "the weights are quantised by 'gptq'; float weights and FP8",
        ),
        ({"text_config": {}}, "config.json has no 'vocab_size'"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(PublishedError, match=message):
        import_model(published, None, tmp_path / "ours", seed=0)


@pytest.mark.parametrize("layers", [10_000_000, "many", -1])
def test_a_number_of_layers_that_no_model_has(tmp_path: Path, layers: object) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    config = json.loads((published / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="num_hidden_layers"):
        import_model(published, None, tmp_path / "ours", seed=0)


def test_a_folder_that_is_no_model_folder_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ImportedError, match=r"no model folder .* `python -m mindvl_train import` makes one"):
        read_imported(tmp_path)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_a_modules_own_state_are_read(tmp_path: Path, wrapper: str) -> None:
    """What a training loop saves: `model.state_dict()`, of the module itself or of one that wraps it."""
    published = publish("Qwen2.5-VL", tmp_path / "published")
    import_model(published, None, tmp_path / "as published", seed=0)
    tensors = load_file(published / "model.safetensors")
    raw = {
        wrapper + name.replace("visual.", "model.visual.")
        if name.startswith("visual.")
        else wrapper + name.replace("model.", "model.language_model."): tensor
        for name, tensor in tensors.items()
    }
    assert len(raw) == len(tensors)
    save_file(raw, published / "model.safetensors")
    import_model(published, None, tmp_path / "as it is", seed=0)
    ours, theirs = (read_imported(tmp_path / name).tensors for name in ("as it is", "as published"))
    assert ours is not None
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    tensors = load_file(published / "model.safetensors")
    save_file(tensors | {"module.lm_head.weight": torch.zeros(1)}, published / "model.safetensors")
    with pytest.raises(tensor_files.TensorFileError, match="are one tensor's names"):
        import_model(published, None, tmp_path / "ours", seed=0)
