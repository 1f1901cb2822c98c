"""FP8 weights with a scale for every block, as DeepSeek-V3 is published, come in as what they were meant to be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from mindvl_train.weights.imported import read_imported
from mindvl_train.weights.published.block_scaled import unscale
from mindvl_train.weights.published.exporting import export_model
from mindvl_train.weights.published.family import PublishedError
from mindvl_train.weights.published.importing import import_model
from mindvl_train.weights.tensor_files import open_folder
from tests.mindvl_train.parity import CASES, Composed, _drawn
from tests.mindvl_train.weights.published.test_configs import CONFIGS

CASE = "Qwen2.5-ViT + DeepSeek-V3"
ROWS, COLUMNS = 5, 7
PROJECTIONS = ("proj.weight", "proj_with_mqa.weight")


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of every block becomes the largest of FP8."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    scales = torch.stack(
        [
            torch.stack([block.abs().max() / largest for block in band.split(COLUMNS, dim=1)])
            for band in tensor.split(ROWS)
        ]
    )
    spread = scales.repeat_interleave(ROWS, 0)[: len(tensor)].repeat_interleave(COLUMNS, 1)[:, : tensor.shape[1]]
    return (tensor / spread).to(torch.float8_e4m3fn), scales


def meant(stored: Tensor, scales: Tensor) -> Tensor:
    """Element by element."""
    values = [
        [
            stored[row, column].item() * scales[row // ROWS, column // COLUMNS].item()
            for column in range(stored.shape[1])
        ]
        for row in range(stored.shape[0])
    ]
    return torch.tensor(values, dtype=torch.float32).to(torch.bfloat16)


def publish(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The small DeepSeek-V3 of `parity` as its publisher would lay it down; and its tensors with their scales."""
    oracle = _drawn(CASES[CASE]())
    assert isinstance(oracle, Composed)
    oracle.save(folder)
    language = folder / "language"
    stored: dict[str, Tensor] = {}
    for name, tensor in load_file(language / "model.safetensors").items():
        if name.endswith(PROJECTIONS):
            stored[name], stored[f"{name}_scale_inv"] = quantise(tensor)
        else:
            stored[name] = tensor if name.endswith("e_score_correction_bias") else tensor.to(torch.bfloat16)
    save_file(stored, language / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((language / "config.json").read_text())
    published = json.loads((CONFIGS / "deepseek-r1-0528.json").read_text())
    quantisation = published["quantization_config"] | {"weight_block_size": [ROWS, COLUMNS]}
    code = {"auto_map": published["auto_map"], "num_nextn_predict_layers": 1}
    _write(language, config | code | {"dtype": "bfloat16", "quantization_config": quantisation})
    return folder, stored


def _write(language: Path, config: dict[str, Any]) -> None:
    (language / "config.json").write_text(json.dumps(config))


def test_blocks_times_their_scales_are_what_comes_in_and_goes_out(tmp_path: Path) -> None:
    folder, stored = publish(tmp_path / "published")
    import_model(folder, None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    out = open_folder(tmp_path / "out" / "language")
    assert set(out) == {name for name in stored if not name.endswith("_scale_inv")}
    for name, tensor in out.items():
        scales = stored.get(f"{name}_scale_inv")
        expected = stored[name] if scales is None else meant(stored[name], scales)
        assert torch.equal(tensor, expected), name
    assert sum(f"{name}_scale_inv" in stored for name in out) > 70, "experts, shared experts and attention"
    experts = read_imported(tmp_path / "ours").tensors["decoder.layers.1.mlp.experts.up_proj"]
    assert experts.dtype == torch.bfloat16
    assert torch.equal(experts[3], out["model.layers.1.mlp.experts.3.up_proj.weight"])


def test_the_export_says_what_its_weights_are_now_and_opens(tmp_path: Path) -> None:
    folder, _ = publish(tmp_path / "published")
    import_model(folder, None, tmp_path / "ours", seed=0)
    export_model(tmp_path / "ours", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "language" / "config.json").read_text())
    assert {"quantization_config", "auto_map"}.isdisjoint(config), "they are neither FP8 nor with code"
    assert config["num_nextn_predict_layers"] == 0, "the second prediction is not there"
    model, info = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "out" / "language", output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.bfloat16
    assert isinstance(model.config, DeepseekV3Config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda stored, name: stored.pop(f"{name}_scale_inv"),
            r"up_proj.weight_scale_inv is missing, expected \[7, 4\]",
        ),
        (
            lambda stored, name: stored.update({f"{name}_scale_inv": torch.ones(3, 3)}),
            r"up_proj.weight_scale_inv is \[3, 3\], expected \[7, 4\]",
        ),
    ],
)
def test_scales_that_do_not_fit_are_named(tmp_path: Path, change: Any, message: str) -> None:
    folder, stored = publish(tmp_path / "published")
    change(stored, "model.layers.0.mlp.up_proj.weight")
    save_file(stored, folder / "language" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PublishedError, match=message):
        import_model(folder, None, tmp_path / "ours", seed=0)
    assert not (tmp_path / "ours").exists()


def test_only_a_band_of_blocks_is_held_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    widened: list[int] = []
    widen = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda tensor: widened.append(tensor.numel()) or widen(tensor))
    stored, scales = quantise(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)))
    found = unscale(stored, scales, (ROWS, COLUMNS), torch.bfloat16)
    assert torch.equal(found, meant(stored, scales))
    assert max(widened) <= max(ROWS * 30, scales.numel())
