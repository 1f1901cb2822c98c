"""Arithmetic of training: the published rule of thumb, what freezing saves, names that are not in the table."""

import pytest

from mindvl_data.errors import UserError
from mindvl_data.pipeline.compute import DEVICES, MODELS, PARTS, Workload, device_of, model_of, training_flops
from mindvl_data.recipe import ModelSize, Tower

MODEL = ModelSize(
    vision=Tower(parameters=1000, layers=2, attention_width=8),
    projector=100,
    decoder=Tower(parameters=10_000, layers=4, attention_width=16),
)
WORK = Workload(tokens=50, length=10, vision_tokens=20, patches=80, patches_per_image=40)


def test_training_is_six_operations_a_parameter_and_token_and_attention_beside() -> None:
    flops = training_flops(MODEL, WORK)
    assert flops["decoder"] == 6 * 10_000 * 50 + 3 * 50 * 2 * (
        4 * 16 * 10
    )  # causal: half of 4 × layers × width × length
    assert flops["vision"] == 6 * 1000 * 80 + 3 * 80 * 4 * (2 * 8 * 40)
    assert flops["projector"] == 6 * 100 * 20


def test_a_frozen_part_saves_its_weights_gradients_and_what_lies_before_all_that_trains() -> None:
    every, projector, decoder = (training_flops(MODEL, WORK, t) for t in (PARTS, ["projector"], ["decoder"]))
    assert projector["vision"] == every["vision"] / 3
    assert projector["projector"] == every["projector"]
    assert projector["decoder"] == every["decoder"] * 2 / 3
    assert decoder == {"vision": every["vision"] / 3, "projector": every["projector"] / 3, "decoder": every["decoder"]}
    assert training_flops(MODEL, WORK, [])["decoder"] == every["decoder"] / 3


@pytest.mark.parametrize(
    ("name", "layers", "width", "key_values", "hidden", "vocabulary"),
    [
        ("open-qwen2vl-2b", 28, (1536, 1536), 256, 8960, 151_936),
        ("mindvl-8b", 36, (4096, 4096), 1024, 12_288, 151_936),
        ("llava-onevision-1.5-4b", 36, (2560, 4096), 1024, 9728, 151_936),
    ],
)
def test_the_tables_decoders_are_their_published_layer_sizes(
    name: str, layers: int, width: tuple[int, int], key_values: int, hidden: int, vocabulary: int
) -> None:
    model, attention = width
    layer = 2 * model * attention + 2 * model * key_values + 3 * model * hidden
    decoder = MODELS[name].decoder
    assert decoder.parameters == pytest.approx(layers * layer + vocabulary * model, rel=0.001)
    assert (decoder.layers, decoder.attention_width) == (layers, attention)


def test_every_entry_says_where_it_is_from_and_others_are_refused_by_name() -> None:
    assert all(entry.source for entry in (*MODELS.values(), *DEVICES.values()))
    with pytest.raises(UserError, match=r"forecast\.model: there is no 'gpt'; there are open-qwen2vl-2b"):
        model_of("gpt")
    with pytest.raises(UserError, match=r"forecast\.device: there is no 'tpu'; there are a100"):
        device_of("tpu")
    assert model_of(MODEL) is MODEL
