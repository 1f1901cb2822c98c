"""Published weights come in, train, go out and open in transformers; nothing is lost on the way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from typer.testing import CliRunner

from mindvl_data.vision import Resolution
from mindvl_data.vision.resize import QWEN2_VL, QWEN3_VL
from mindvl_train.cli import app
from mindvl_train.config.loading import load_config
from mindvl_train.config.run_folder import RunFolderError
from mindvl_train.data.batch import collate
from mindvl_train.loop.run import train
from mindvl_train.loop.tokenizer_fit import FitError
from mindvl_train.models.initialise import give_weights
from mindvl_train.weights import tensor_files
from mindvl_train.weights.imported import read_imported
from mindvl_train.weights.published.exporting import export_model
from mindvl_train.weights.published.family import PublishedError
from mindvl_train.weights.published.importing import import_model
from mindvl_train.weights.saved import open_saved
from mindvl_train.weights.tensor_files import open_folder
from tests.mindvl_train.parity import CASES, Composed, Joint, _drawn, _imported, _oracle_inputs, samples
from tests.mindvl_train.synthetic import SPECIAL_IDS, TINY_MODEL, pack_of, write_run

# The data sets of `synthetic` know no tokenizer.
SAME_IDS = {"tokenizer_sha256": "0" * 64}
TOKENS = {"<|image_pad|>": 5, "<|vision_start|>": 3, "<|vision_end|>": 4, "<|endoftext|>": 0}


def _whole(case: str) -> bool:
    """Whether transformers has a class for all of it."""
    return "+" not in case


def publish(case: str, folder: Path, image_pad: int = 5) -> Path:
    """An oracle of `parity` as its publisher would lay it down, with a tokenizer and a processor."""
    folder.mkdir(parents=True)
    _drawn(CASES[case]()).save(folder)
    home = folder if _whole(case) else folder / "language"
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


@pytest.mark.parametrize("case", ["Qwen2.5-VL", "Qwen3-VL-MoE", "Qwen3.5", "Qwen2.5-ViT + DeepSeek-V3"])
@pytest.mark.parametrize("at", ["import", "export"])
def test_in_bfloat16_too_the_bytes_stay(case: str, at: str, tmp_path: Path) -> None:
    """Stored in bfloat16, or rounded on the way out: what is exported says so, and comes back as it was."""
    published = publish(case, tmp_path / "published")
    import_model(published, None, tmp_path / "first", seed=0, dtype="bfloat16" if at == "import" else None)
    export_model(tmp_path / "first", tmp_path / "out", "bfloat16")
    import_model(tmp_path / "out", None, tmp_path / "second", seed=1)
    export_model(tmp_path / "second", tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "out")
    home = tmp_path / "out" if _whole(case) else tmp_path / "out" / "language"
    assert json.loads((home / "config.json").read_text())["dtype"] == "bfloat16"
    theirs, out = open_folder(published if _whole(case) else published / "language"), open_folder(home)
    for name, tensor in out.items():
        wide = name.endswith(("e_score_correction_bias", "A_log"))
        assert torch.equal(tensor, theirs[name].to(torch.float32 if wide else torch.bfloat16)), name


@pytest.mark.parametrize("case", CASES)
def test_what_was_published_is_what_is_exported(case: str, tmp_path: Path) -> None:
    import_model(publish(case, tmp_path / "published"), None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    for part in ("",) if _whole(case) else ("language", "vision"):
        theirs, back = open_folder(tmp_path / "published" / part), open_folder(tmp_path / "out" / part)
        assert set(theirs) == set(back)
        assert all(torch.equal(theirs[name], back[name]) for name in theirs)


def trained(folder: Path, weights: Path | None, rule: Resolution = QWEN2_VL) -> tuple[Path, dict[str, Any]]:
    """A run of two steps from imported weights, or from fresh ones; its folder and its last weights."""
    model = {"name": "vlm", "weights": str(weights), **SAME_IDS} if weights else {"name": "vlm", "config": TINY_MODEL}
    path = write_run(folder, rule, model=model)
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    result = train(load_config(path, quick), str(path), folder / "run")
    return folder / "run", dict(open_saved(result.checkpoint / "weights"))


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ("Qwen2.5-VL", QWEN2_VL),
        ("Qwen3-VL", QWEN3_VL),
        ("Qwen3-VL-MoE", QWEN3_VL),
        ("Qwen3.5", QWEN3_VL),
        ("Qwen3.5-MoE", QWEN3_VL),
    ],
)
def test_a_run_begins_from_imported_weights_and_its_export_answers_the_same(
    case: str, rule: Resolution, tmp_path: Path
) -> None:
    import_model(publish(case, tmp_path / "published"), None, tmp_path / "ours", seed=0)
    run, weights = trained(tmp_path / "work", tmp_path / "ours", rule)
    begun = read_imported(tmp_path / "ours").tensors
    moved = {name: (weights[name] - begun[name]).abs().max().item() for name in begun}
    assert 0 < max(moved.values()) < 0.1, "it began elsewhere"
    export_model(run, tmp_path / "out")
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    oracle = Joint(model.eval())
    ours, layout = _imported(oracle, tmp_path / "check")
    give_weights(ours, 0, torch.device("cpu"), weights)
    pack = pack_of(samples())
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(collate([pack], layout)), oracle.logits(*_oracle_inputs([pack], layout)), atol=1e-5, rtol=1e-5
        )


def test_a_data_set_of_another_family_is_refused(tmp_path: Path) -> None:
    """Patches alone do not tell: with Qwen2-VL's pixels a set of this patch size fitted before."""
    import_model(publish("Qwen3-VL", tmp_path / "published"), None, tmp_path / "ours", seed=0)
    with pytest.raises(
        FitError, match=r"its pixels have the mean .*, the model's tower is made for \[0\.5, 0\.5, 0\.5\]"
    ):
        trained(tmp_path / "work", tmp_path / "ours", replace(QWEN2_VL, patch=16))


@pytest.mark.parametrize("case", ["Qwen3-VL-MoE", "Qwen3.5-MoE"])
def test_experts_as_transformers_saves_them_are_those_that_are_published(case: str, tmp_path: Path) -> None:
    oracle = _drawn(CASES[case]())
    assert isinstance(oracle, Joint)
    oracle.save(tmp_path / "published")
    oracle.model.save_pretrained(tmp_path / "saved")
    folders = [tmp_path / "one", tmp_path / "two"]
    for source, folder in zip(("published", "saved"), folders, strict=True):
        import_model(tmp_path / source, None, folder, seed=0)
    one, two = (read_imported(folder).tensors for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("case", ["Qwen2.5-ViT + Qwen3-MoE", "Qwen2.5-ViT + DeepSeek-V3"])
def test_experts_of_a_raw_state_dict_are_those_that_are_published(case: str, tmp_path: Path) -> None:
    """In the module of transformers 5 they lie stacked."""
    oracle = _drawn(CASES[case]())
    assert isinstance(oracle, Composed)
    folders = {name: tmp_path / name for name in ("published", "raw")}
    for folder in folders.values():
        folder.mkdir()
        oracle.save(folder)
    raw = {name: tensor.clone() for name, tensor in oracle.language.state_dict().items()}
    assert any(name.endswith("experts.gate_up_proj") for name in raw)
    save_file(raw, folders["raw"] / "language" / "model.safetensors")
    for name, folder in folders.items():
        import_model(folder, None, tmp_path / f"ours {name}", seed=0)
    one, two = (read_imported(tmp_path / f"ours {name}").tensors for name in folders)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_fresh_run_exports_its_parts(tmp_path: Path) -> None:
    decoder = TINY_MODEL["decoder"] | {"qkv_bias": False}
    path = write_run(tmp_path, model={"name": "vlm", "config": TINY_MODEL | {"decoder": decoder}})
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    train(load_config(path, quick), str(path), tmp_path / "run")
    report = export_model(tmp_path / "run", tmp_path / "out")
    assert report.written == ("language", "vision", "projector.safetensors")
    assert not report.tokenizer
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


def test_a_tower_with_deepstack_joins_a_decoder_that_never_had_it(tmp_path: Path) -> None:
    language = publish("Qwen2.5-ViT + Qwen3", tmp_path / "qwen3") / "language"
    vision = publish("Qwen3-VL", tmp_path / "vl")
    assert import_model(language, vision, tmp_path / "ours", seed=4).drawn == ("projector",)
    tensors = read_imported(tmp_path / "ours").tensors
    assert tensors["projector.deepstack.1.fc2.weight"].shape == (24, 128)
    export_model(tmp_path / "ours", tmp_path / "out")
    tower, info = AutoModel.from_pretrained(tmp_path / "out" / "vision", output_loading_info=True)
    assert type(tower).__name__ == "Qwen3VLVisionModel"
    assert not any(info.values()), info
    assert import_model(tmp_path / "out", None, tmp_path / "again", seed=5).drawn == ()
    again = read_imported(tmp_path / "again").tensors
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("experts", [False, True])
def test_qwen3_5s_language_model_alone_joins_another_tower_and_goes_out_alone(experts: bool, tmp_path: Path) -> None:
    """As `Qwen3_5ForCausalLM` is saved; of its text it says the same when it comes out again."""
    whole = CASES["Qwen3.5-MoE" if experts else "Qwen3.5"]()
    assert isinstance(whole, Joint)
    language = AutoModelForCausalLM.from_config(whole.model.config.text_config).eval()
    language.save_pretrained(tmp_path / "language")
    vision = publish("Qwen2.5-VL", tmp_path / "vl")
    import_model(tmp_path / "language", vision, tmp_path / "ours", seed=4)
    report = export_model(tmp_path / "ours", tmp_path / "out")
    assert report.written == ("language", "vision", "projector.safetensors")
    back, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language", output_loading_info=True)
    assert type(back) is type(language)
    assert not any(info.values()), info
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        assert torch.equal(back.eval()(ids).logits, language(ids).logits)


def test_the_layer_that_predicts_a_second_token_is_left_out_and_the_export_says_so(tmp_path: Path) -> None:
    published = publish("Qwen3.5", tmp_path / "published")
    tensors = load_file(published / "model.safetensors")
    tensors["mtp.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, published / "model.safetensors")
    config = json.loads((published / "config.json").read_text())
    config["text_config"]["mtp_num_hidden_layers"] = 1
    (published / "config.json").write_text(json.dumps(config))
    import_model(published, None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    assert not [name for name in open_folder(tmp_path / "out") if name.startswith("mtp.")]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["mtp_num_hidden_layers"] == 0


def test_a_type_that_the_text_alone_states_is_that_of_the_whole(tmp_path: Path) -> None:
    """As the hub's Qwen3-VL and Qwen3.5 are written: what came in bfloat16 does not go out twice as large."""
    published = publish("Qwen3.5", tmp_path / "published")
    config = json.loads((published / "config.json").read_text())
    del config["dtype"]
    config["text_config"]["dtype"] = "bfloat16"
    (published / "config.json").write_text(json.dumps(config))
    import_model(published, None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    kinds = {name: tensor.dtype for name, tensor in open_folder(tmp_path / "out").items()}
    assert {kind for name, kind in kinds.items() if not name.endswith("A_log")} == {torch.bfloat16}
    export_model(tmp_path / "ours", tmp_path / "wide", "float32")
    written = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert (written["dtype"], written["text_config"]["dtype"]) == ("float32", "float32")


def test_a_tokenizer_that_the_weights_do_not_know_is_refused(tmp_path: Path) -> None:
    import_model(publish("Qwen2.5-VL", tmp_path / "published", image_pad=9), None, tmp_path / "ours", seed=0)
    with pytest.raises(FitError, match=f"its image_pad is token {SPECIAL_IDS['image_pad']}, the model's is 9"):
        trained(tmp_path / "work", tmp_path / "ours")


def test_a_tokenizer_of_the_same_ids_but_another_hash_is_refused(tmp_path: Path) -> None:
    import_model(publish("Qwen2.5-VL", tmp_path / "published"), None, tmp_path / "ours", seed=0)
    known = read_imported(tmp_path / "ours").tokenizer_sha256
    path = write_run(tmp_path / "work", model={"name": "vlm", "weights": str(tmp_path / "ours")})
    told = rf"its tokenizer is 0{{64}}, the model's is {known}\n(.*\n)*.*as model.tokenizer_sha256"
    with pytest.raises(FitError, match=told):
        train(load_config(path), str(path), tmp_path / "run")


def test_a_run_goes_on_with_the_weights_it_began_with(tmp_path: Path) -> None:
    published = publish("Qwen2.5-VL", tmp_path / "published")
    import_model(published, None, tmp_path / "ours", seed=0)
    path = write_run(tmp_path / "work", model={"name": "vlm", "weights": str(tmp_path / "ours"), **SAME_IDS})
    quick = [f"stages.{stage}.until={{packs: 1}}" for stage in ("warmup", "everything")]
    train(load_config(path, quick), str(path), tmp_path / "run")
    (tmp_path / "ours").rename(tmp_path / "moved")
    moved = [*quick, f"model.weights={tmp_path / 'moved'}"]
    assert train(load_config(path, moved), str(path), tmp_path / "run").already_finished
    tensors = load_file(published / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, published / "model.safetensors")
    import_model(published, None, tmp_path / "ours", seed=0)
    with pytest.raises(RunFolderError, match=r"model.weights_sha256: was .* is now"):
        train(load_config(path, quick), str(path), tmp_path / "run")


def test_large_models_are_spread_over_files_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files.write_folder, "__defaults__", (20_000,))
    published = publish("Qwen2.5-VL", tmp_path / "published")
    import_model(published, None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert files[-1] == f"model-{len(files):05d}-of-{len(files):05d}.safetensors"
    _, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    import_model(tmp_path / "out", None, tmp_path / "again", seed=1)
    ours, again = read_imported(tmp_path / "ours").tensors, read_imported(tmp_path / "again").tensors
    assert all(torch.equal(ours[name], again[name]) for name in ours)


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
