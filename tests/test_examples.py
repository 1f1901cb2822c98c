"""The packed stream in loops of others: examples/ as they are."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from examples import hugging_face_trainer, plain_loop
from mindvl_data.pipeline import BuildReport
from mindvl_data.stream import PackStream
from mindvl_train.data.batch import collate
from tests.mindvl_train.parity import _imported, _qwen2_5_vl, clips, samples
from tests.mindvl_train.synthetic import LAYOUT, SPECIAL_IDS, mixed_packs, pack_of, write_data_set


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)


def test_a_plain_loop_learns_and_goes_on_where_it_was(quickstart: BuildReport) -> None:
    manifest = quickstart.out / "sft-2048" / "manifest.json"
    stream = PackStream(manifest, epochs=None)
    losses = list(islice(plain_loop.train(plain_loop.build(stream), stream), 8))
    assert _mean(losses[-3:]) < losses[0] - 0.5
    other = PackStream(manifest, epochs=None)
    other.load_state_dict(stream.state_dict())
    assert next(iter(other)).sample_ids == next(iter(stream)).sample_ids


def test_a_plain_loop_takes_any_vocabulary(tmp_path: Path) -> None:
    """Qwen's, and tokens beyond what the tokenizer counts."""
    ids = SPECIAL_IDS | {"im_start": 151_644}
    stream = PackStream(write_data_set(tmp_path / "set", mixed_packs(2, 48), vocab_size=151_643, special_ids=ids))
    model = plain_loop.build(stream)
    assert model.decoder.embed_tokens.num_embeddings == 151_645
    assert next(plain_loop.train(model, stream)) > 0


def test_the_trainer_of_transformers_learns(tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path / "set", mixed_packs(4, 48))
    losses = hugging_face_trainer.train(str(manifest), 36)
    assert len(losses) == 36
    assert _mean(losses[-6:]) < _mean(losses[:6]) - 0.5


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Of four packed samples, by our model and by theirs on the same weights, and by theirs on each alone."""
    torch.manual_seed(0)
    theirs = _qwen2_5_vl()
    ours, layout = _imported(theirs, tmp_path_factory.mktemp("weights"))
    drawn = [*samples(), *clips(spans=False)]
    pack = pack_of(drawn, 240)

    def by_theirs(packs: list) -> torch.Tensor:
        return theirs.model.eval()(**hugging_face_trainer.qwen_inputs(packs, layout)).logits[0]

    with torch.no_grad():
        real = collate([pack], layout)
        return {
            "ours": ours.logits(real)[real.real],
            "theirs": by_theirs([pack])[real.real],
            "alone": torch.cat([by_theirs([pack_of([sample])]) for sample in drawn]),
        }


def test_their_logits_are_ours(logits: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(logits["theirs"], logits["ours"], atol=1e-5, rtol=1e-5)
    assert logits["ours"].std() > 1e-2


def test_packed_samples_do_not_see_each_other_there(logits: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(logits["theirs"], logits["alone"], atol=1e-5, rtol=1e-5)


def test_labels_are_our_targets_unshifted() -> None:
    packs = mixed_packs(3, 24)
    inputs = hugging_face_trainer.qwen_inputs(packs, LAYOUT)
    batch = collate(packs, LAYOUT)
    places = (inputs["labels"][0] != hugging_face_trainer.IGNORED).nonzero()[:, 0]
    assert (places - 1).tolist() == batch.predictors.tolist()
    assert inputs["labels"][0, places].tolist() == batch.targets.tolist()
