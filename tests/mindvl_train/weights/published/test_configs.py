"""Published `config.json` files load as they are, and mean models of the published size."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mindvl_train import plugins
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.decoder import Decoder, DecoderConfig
from mindvl_train.models.vlm import VLM, VLMConfig
from mindvl_train.presets import read_preset
from mindvl_train.weights.published.family import Joint, Language, PublishedError
from mindvl_train.weights.published.known_keys import check_language, check_vision

CONFIGS = Path(__file__).parent / "configs"
# Parameters without the buffers that transformers keeps apart.
SIZES = {
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b-instruct-2507": 30_532_122_624,
    "deepseek-v3-bf16": 671_026_419_200,
    "deepseek-r1-0528": 671_026_419_200,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-7b-saved-by-4.49": 8_292_166_656,
    "qwen2.5-vl-7b-saved-by-4.53": 8_292_166_656,
    # Without the layer that predicts a second token.
    "qwen3.5-0.8b": 852_985_920,
}


def published(name: str) -> tuple[Any, dict[str, Any]]:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    return plugins.load(plugins.PUBLISHED, config["model_type"]), config


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_a_published_configuration_is_a_model_of_the_published_size(name: str) -> None:
    family, config = published(name)
    kernels = resolve(KernelConfig(), "cpu")
    with torch.device("meta"):
        if isinstance(family, Joint):
            vlm = VLMConfig(vision=family.vision.read(config), decoder=family.language.read(config))
            assert count(VLM(vlm, kernels)) == SIZES[name]
        else:
            assert count(Decoder(family.read(config), kernels)) == SIZES[name]


@pytest.mark.parametrize("name", SIZES)
def test_what_is_written_is_read_as_the_same(name: str) -> None:
    family, config = published(name)
    if isinstance(family, Joint):
        vision, decoder = family.vision.read(config), family.language.read(config)
        written = family.write(vision, decoder)
        assert written is not None
        assert (family.vision.read(written), family.language.read(written)) == (vision, decoder)
    else:
        assert family.read(family.write(family.read(config))) == family.read(config)


def test_no_family_takes_the_model_of_another() -> None:
    decoders: dict[str, DecoderConfig] = {
        name: family.language.read(config) if isinstance(family, Joint) else family.read(config)
        for name in SIZES
        for family, config in [published(name)]
    }
    for name, decoder in decoders.items():
        takers = [
            kind
            for kind in plugins.available(plugins.PUBLISHED)
            for family in [plugins.load(plugins.PUBLISHED, kind)]
            if isinstance(family, Language) and family.write(decoder)
        ]
        kind = published(name)[1]["model_type"]
        assert takers == {"qwen2_5_vl": [], "qwen3_5": ["qwen3_5_text"]}.get(kind, [kind])


def test_the_preset_is_the_published_model() -> None:
    family, config = published("qwen3.5-0.8b")
    preset = VLMConfig(**read_preset("qwen3.5-0.8b"))
    assert (family.vision.read(config), family.language.read(config)) == (preset.vision, preset.decoder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_output_gate": False}, "attn_output_gate is False; only True"),
        ({"output_gate_type": "sigmoid"}, "output_gate_type is 'sigmoid'; only 'swish'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e7, "factor": 4.0}}, "of type 'yarn'"),
        ({"rope_parameters": {"rope_theta": 1e7, "mrope_interleaved": False}}, "mrope_interleaved is False"),
    ],
)
def test_what_we_do_not_compute_of_qwen3_5_is_refused(changes: dict[str, Any], message: str) -> None:
    family, config = published("qwen3.5-0.8b")
    with pytest.raises(PublishedError, match=message):
        family.language.read(config | {"text_config": config["text_config"] | changes})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3-8b", {"use_sliding_window": True}, "use_sliding_window is True; only False"),
        ("qwen3-8b", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "of type 'yarn'"),
        ("qwen2.5-7b", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ("qwen3-30b-a3b-instruct-2507", {"attention_bias": True}, "attention_bias is True"),
        ("deepseek-v3-bf16", {"topk_method": "greedy"}, "topk_method is 'greedy'; only 'noaux_tc'"),
    ],
)
def test_what_we_do_not_compute_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    family, config = published(name)
    with pytest.raises(PublishedError, match=message):
        family.read(config | changes)


UNKNOWN = [
    ("qwen3-8b", "", {"logit_softcap": 30.0}, "logit_softcap = 30.0: not known"),
    (
        "qwen3-8b",
        "",
        {"rope_scaling": {"rope_type": "default", "attention_factor": 1.2}},
        "rope_scaling.attention_factor",
    ),
    ("deepseek-v3-bf16", "rope_scaling", {"truncate": False}, "rope_scaling.truncate = False"),
    ("deepseek-v3-bf16", "rope_scaling", {"attention_factor": 1.0}, "rope_scaling.attention_factor = 1.0"),
    ("qwen2.5-vl-7b", "vision_config", {"use_registers": True}, "vision_config.use_registers = True"),
    ("qwen2.5-vl-7b-saved-by-4.53", "text_config", {"query_scale": 2}, "text_config.query_scale = 2"),
    ("qwen3-30b-a3b-instruct-2507", "", {"num_shared_experts": 2}, "num_shared_experts = 2"),
]


def _checked(family: Any, config: dict[str, Any]) -> None:
    if isinstance(family, Joint):
        check_vision(config, family.vision)
    check_language(config, family.language if isinstance(family, Joint) else family, joint=isinstance(family, Joint))


@pytest.mark.parametrize(("name", "part", "changes", "message"), UNKNOWN)
def test_a_key_that_nobody_knows_is_refused_by_name(
    name: str, part: str, changes: dict[str, Any], message: str
) -> None:
    family, config = published(name)
    _checked(family, config)
    with pytest.raises(PublishedError, match=f"{re.escape(message)}.*known here are .* Take the key out"):
        _checked(family, config | ({part: config[part] | changes} if part else changes))
    # What is null is as good as absent.
    nothing = dict.fromkeys(changes)
    _checked(family, config | ({part: config[part] | nothing} if part else nothing))


@pytest.mark.parametrize("name", SIZES)
def test_every_key_of_a_published_configuration_is_known(name: str) -> None:
    _checked(*published(name))


@pytest.mark.parametrize("place", ["rope_theta", "rope_parameters"])
def test_a_tower_of_other_rotary_positions_is_refused(place: str) -> None:
    family, config = published("qwen2.5-vl-7b")
    other = {"rope_theta": 5e5} if place == "rope_theta" else {place: {"rope_theta": 5e5, "rope_type": "axial"}}
    with pytest.raises(PublishedError, match="rope_theta is 500000"):
        family.vision.read(config | {"vision_config": config["vision_config"] | other})


def test_yarn_without_the_scale_of_cosines_is_read_as_transformers_reads_it() -> None:
    family, config = published("deepseek-v3-bf16")
    scaling = {key: value for key, value in config["rope_scaling"].items() if key != "mscale"}
    yarn = family.read(config | {"rope_scaling": scaling}).yarn
    rope = {"rope_theta": 10_000.0, "rope_type": "yarn"} | {k: v for k, v in scaling.items() if k != "type"}
    theirs = DeepseekV3Config(**{**config, "rope_scaling": None, "rope_parameters": rope, "quantization_config": None})
    _, expected = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    assert yarn.rotary_scale == pytest.approx(expected)
