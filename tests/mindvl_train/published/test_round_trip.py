"""Published weights come in, train, go out and open in transformers; nothing is lost on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from typer.testing import CliRunner

from mindvl_train.batch import collate
from mindvl_train.checkpoint import read_checkpoint
from mindvl_train.cli import app
from mindvl_train.config import load_config
from mindvl_train.imported import ImportedError, read_imported
from mindvl_train.models.initialise import give_weights
from mindvl_train.published.exporting import export_model
from mindvl_train.published.family import PublishedError
from mindvl_train.published.importing import import_model
from mindvl_train.run_folder import RunFolderError
from mindvl_train.tensor_files import open_folder
from mindvl_train.tokenizer_fit import FitError
from mindvl_train.trainer import train
from tests.mindvl_train.parity import CASES, Joint, _drawn, _imported, _oracle_inputs, samples
from tests.mindvl_train.synthetic import SPECIAL_IDS, TINY_MODEL, pack_of, write_run

TOKENS = {"<|image_pad|>": 5, "<|vision_start|>": 3, "<|vision_end|>": 4, "<|endoftext|>": 0}


def publish(case: str, folder: Path, image_pad: int = 5) -> Path:
    """An oracle of `parity` as its publisher would lay it down, with a tokenizer and a processor."""
    folder.mkdir(parents=True)
    _drawn(CASES[case]()).save(folder)
    home = folder if case == "Qwen2.5-VL" else folder / "language"
    added = [{"id": image_pad if id_ == 5 else id_, "content": token} for token, id_ in TOKENS.items()]
    (home / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    (home / "chat_template.jinja").write_text("{{ messages }}")
    (home / "preprocessor_config.json").write_text("{}")
    (home / "modeling_custom.py").write_text("raise SystemExit")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_export_import_export_gives_the_same_bytes(case: str, tmp_path: Path) -> None:
    import_model(publish(case, tmp_path / "published"), None, tmp_path / "first", seed=0)
    export_model(tmp_path / "first", tmp_path / "out")
    import_model(tmp_path / "out", None, tmp_path / "second", seed=1)
    export_model(tmp_path / "second", tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.py")), "code is not ours to pass on"
    assert list((tmp_path / "out").rglob("chat_template.jinja"))


@pytest.mark.parametrize("case", CASES)
def test_what_was_published_is_what_is_exported(case: str, tmp_path: Path) -> None:
    import_model(publish(case, tmp_path / "published"), None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    for part in ("",) if case == "Qwen2.5-VL" else ("language", "vision"):
        theirs, back = open_folder(tmp_path / "published" / part), open_folder(tmp_path / "out" / part)
        assert set(theirs) == set(back)
        assert all(torch.equal(theirs[name], back[name]) for name in theirs)


def trained(folder: Path, weights: Path | None) -> tuple[Path, dict[str, Any]]:
    """A run of two steps from imported weights, or from fresh ones; its folder and its last weights."""
    model = {"name": "vlm", "weights": str(weights)} if weights else {"name": "vlm", "config": TINY_MODEL}
    path = write_run(folder, model=model)
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    result = train(load_config(path, quick), str(path), folder / "run")
    return folder / "run", dict(read_checkpoint(result.checkpoint).weights)


def test_a_run_begins_from_imported_weights_and_its_export_answers_the_same(tmp_path: Path) -> None:
    import_model(publish("Qwen2.5-VL", tmp_path / "published"), None, tmp_path / "ours", seed=0)
    run, weights = trained(tmp_path / "work", tmp_path / "ours")
    begun = read_imported(tmp_path / "ours").tensors
    moved = {name: (weights[name] - begun[name]).abs().max().item() for name in begun}
    assert 0 < max(moved.values()) < 0.1, "it began elsewhere"
    export_model(run, tmp_path / "out")
    oracle = Joint(Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out").eval())
    ours, layout = _imported(oracle, tmp_path / "check")
    give_weights(ours, 0, torch.device("cpu"), weights)
    pack = pack_of(samples())
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(collate([pack], layout)), oracle.logits(*_oracle_inputs([pack])), atol=1e-5, rtol=1e-5
        )


def test_a_fresh_run_exports_its_parts(tmp_path: Path) -> None:
    decoder = TINY_MODEL["decoder"] | {"qkv_bias": False}
    path = write_run(tmp_path, model={"name": "vlm", "config": TINY_MODEL | {"decoder": decoder}})
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    train(load_config(path, quick), str(path), tmp_path / "run")
    assert export_model(tmp_path / "run", tmp_path / "out") == ("language", "vision", "projector.safetensors")
    language, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language", output_loading_info=True)
    assert type(language).__name__ == "Qwen3ForCausalLM"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    _, info = Qwen2_5_VisionTransformerPretrainedModel.from_pretrained(
        tmp_path / "out" / "vision", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_a_decoder_that_no_published_class_computes_is_not_exported(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, None)
    with pytest.raises(PublishedError, match="no published class computes this decoder"):
        export_model(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_any_vision_tower_joins_any_language_model_with_a_drawn_projector(tmp_path: Path) -> None:
    language = publish("Qwen2.5-ViT + Qwen3", tmp_path / "qwen3") / "language"
    vision = publish("Qwen2.5-VL", tmp_path / "vl")
    report = import_model(language, vision, tmp_path / "ours", seed=4)
    assert report.drawn == ("projector",)
    ours, theirs = read_imported(tmp_path / "ours"), open_folder(vision)
    name = "blocks.2.attn.qkv.weight"
    assert torch.equal(ours.tensors[f"vision.{name}"], theirs[f"visual.{name}"])
    assert ours.config["decoder"]["qk_norm"]
    assert ours.special_ids == {"image_pad": 5, "vision_start": 3, "vision_end": 4, "end_of_text": 0}


def test_a_tokenizer_that_the_weights_do_not_know_is_refused(tmp_path: Path) -> None:
    import_model(publish("Qwen2.5-VL", tmp_path / "published", image_pad=9), None, tmp_path / "ours", seed=0)
    with pytest.raises(FitError, match=f"its image_pad is token {SPECIAL_IDS['image_pad']}, the model's is 9"):
        trained(tmp_path / "work", tmp_path / "ours")


def test_a_run_goes_on_with_the_weights_it_began_with(tmp_path: Path) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    import_model(published, None, tmp_path / "ours", seed=0)
    path = write_run(tmp_path / "work", model={"name": "vlm", "weights": str(tmp_path / "ours")})
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    train(load_config(path, quick), str(path), tmp_path / "run")
    (tmp_path / "ours").rename(tmp_path / "moved")
    moved = [*quick, f"model.weights={tmp_path / 'moved'}"]
    assert train(load_config(path, moved), str(path), tmp_path / "run").already_finished
    _change(published, "model.norm.weight", lambda tensor: tensor * 2)
    import_model(published, None, tmp_path / "ours", seed=0)
    with pytest.raises(RunFolderError, match=r"model.weights_sha256: was .* is now"):
        train(load_config(path, quick), str(path), tmp_path / "run")


def _change(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
    """Alters a tensor of a folder, or takes it away."""
    from safetensors.torch import load_file, save_file

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


def test_a_tensor_without_a_place_is_an_error(tmp_path: Path) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    config = json.loads((published / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishedError, match=r"model.layers.2.input_layernorm.weight \[24\] has no place in the model"):
        import_model(published, None, tmp_path / "ours", seed=0)


def test_commands_say_what_they_wrote(tmp_path: Path) -> None:
    published = publish("Qwen2.5-ViT + Qwen3", tmp_path / "published")
    result = CliRunner().invoke(app, ["import", str(published), "--out", str(tmp_path / "ours")])
    assert result.exit_code == 0, result.output
    assert "parameters (vision" in result.stdout
    result = CliRunner().invoke(app, ["export", str(tmp_path / "ours"), "--out", str(tmp_path / "out")])
    assert result.stdout.splitlines()[-1].endswith("projector.safetensors")
    again = CliRunner().invoke(app, ["export", str(tmp_path / "ours"), "--out", str(tmp_path / "out")])
    assert again.exit_code == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "its model_type is 'gpt2'; known: .*qwen2_5_vl"),
        ({"quantization_config": {}}, "its weights are quantised"),
        ({"text_config": {}}, "config.json has no 'vocab_size'"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(PublishedError, match=message):
        import_model(published, None, tmp_path / "ours", seed=0)


def test_a_folder_that_is_no_model_folder_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ImportedError, match=r"no model folder .* `python -m mindvl_train import` makes one"):
        read_imported(tmp_path)
