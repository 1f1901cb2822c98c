"""The joined model: features at their places, gradients for everybody, losses that add up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mindvl_train.data.batch import collate
from mindvl_train.data.bundle import lay_flat
from tests.mindvl_train.synthetic import LAYOUT, image_sample, mixed_packs, pack_of, text_sample, tiny_model

RNG = np.random.default_rng(0)


def test_a_batch_without_images_runs_the_tower_and_gives_it_zero_gradients() -> None:
    model = tiny_model()
    model(collate([pack_of([text_sample(RNG, 9)])], LAYOUT)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.startswith("decoder."):
            assert not parameter.grad.any(), name
    assert model.decoder.embed_tokens.weight.grad.any()


def test_the_masked_grid_changes_no_loss() -> None:
    model = tiny_model()
    batch = collate([pack_of([text_sample(RNG, 9)])], LAYOUT)
    other = replace(batch, patches=torch.randn(batch.patches.shape))
    assert model(batch).item() == model(other).item()


def test_an_image_gives_every_parameter_a_gradient() -> None:
    model = tiny_model()
    model(collate([pack_of([image_sample(RNG, (4, 4), 6)])], LAYOUT)).backward()
    silent = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert silent == []


def test_a_batch_of_levels_is_taken_as_it_comes_from_the_loader() -> None:
    model, packs = tiny_model(), mixed_packs(3, 24)
    bundle = lay_flat(collate(packs, LAYOUT, pixels="levels"), packs=3, ends_step=True)
    torch.testing.assert_close(model(bundle.batch()), model(collate(packs, LAYOUT)))


def test_a_batch_without_targets_has_a_loss_of_zero_and_gradients() -> None:
    model = tiny_model()
    loss = model(collate([mixed_packs(2, 24)[1].without_loss()], LAYOUT))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_loss_is_the_weighted_sum_over_shifted_targets() -> None:
    model = tiny_model()
    pack = pack_of([text_sample(RNG, 5), image_sample(RNG, (2, 2), 4)], 20)
    batch = collate([pack], replace(LAYOUT, loss_weight="sample"))
    with torch.no_grad():
        logits = model.logits(batch)
        expected = sum(
            F.cross_entropy(logits[start:stop][mask_next], ids[mask_at]).item()
            for start, stop in ((0, 5), (5, 12))
            for ids in [batch.ids[start:stop]]
            for mask_at in [torch.from_numpy(pack.loss_mask[start:stop]).nonzero().squeeze(1)]
            for mask_next in [mask_at - 1]
        )
        assert model(batch).item() == pytest.approx(expected, rel=1e-5)


def test_features_and_placeholders_that_differ_in_number_are_an_error() -> None:
    batch = collate([pack_of([image_sample(RNG, (4, 4), 3)])], LAYOUT)
    with pytest.raises(ValueError, match="4 image features for 3 image placeholders"):
        tiny_model()(replace(batch, placeholders=batch.placeholders[:3]))


def test_tied_embeddings_have_one_tensor() -> None:
    model = tiny_model(tie_word_embeddings=True)
    assert model.decoder.head is model.decoder.embed_tokens.weight
    assert not [name for name, _ in model.named_parameters() if "lm_head" in name]
