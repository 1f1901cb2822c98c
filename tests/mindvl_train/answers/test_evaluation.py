"""Scores against what a plain loop over logits says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mindvl_data.shards import Pack
from mindvl_train.answers.evaluation import Score, by_kind, evaluate, total
from mindvl_train.data.batch import collate
from mindvl_train.data.held_out import samples
from tests.mindvl_train.synthetic import LAYOUT, image_sample, pack_of, text_sample, tiny_model

CPU = torch.device("cpu")


def packs() -> list[Pack]:
    """Two packs; samples of two sources, some with two answers."""
    rng = np.random.default_rng(1)
    made = [text_sample(rng, 9), image_sample(rng, (4, 4), 6), text_sample(rng, 12), image_sample(rng, (2, 4), 7)]
    for sample in made[1:3]:
        sample.loss_mask[-3] = False
    named = [pack_of(made[:2], 40), pack_of(made[2:], 40, index=1)]
    return [replace(pack, sources=("one", "two")) for pack in named]


def learnt(pack: Pack) -> Pack:
    """The pack with targets replaced by what the model would say, one sample only: its answers are right."""
    model = tiny_model()
    tokens = pack.tokens.copy()
    for place in np.flatnonzero(pack.loss_mask[: pack.cu_seqlens[1]]).tolist():
        logits = model.logits(collate([replace(pack, tokens=tokens)], LAYOUT))
        tokens[place] = logits[place - 1, 6:].argmax() + 6
    return replace(pack, tokens=tokens)


def test_scores_are_those_of_every_sample_alone() -> None:
    model = tiny_model()
    found = evaluate(model, packs(), LAYOUT, CPU)
    expected: dict[str, Score] = {}
    for pack in packs():
        for sample in samples(pack):
            name = sample.sources[0]
            expected[name] = expected.get(name, Score()) + _plain(model, sample)
    assert list(found) == ["one", "two"]
    for name, score in found.items():
        assert (score.samples, score.targets, score.answers, score.right) == (
            expected[name].samples,
            expected[name].targets,
            expected[name].answers,
            expected[name].right,
        )
        assert score.loss == pytest.approx(expected[name].loss, rel=1e-5)
    assert total(found).answers == 6


def test_an_answer_is_right_if_greedy_generation_would_give_it() -> None:
    first, _ = packs()
    model = tiny_model()
    assert evaluate(model, [first], LAYOUT, CPU)["one"].right == 0
    taught = learnt(first)
    score = evaluate(model, [taught], LAYOUT, CPU)["one"]
    logits = model.logits(collate([taught], LAYOUT))[: taught.cu_seqlens[1] - 1]
    all_right = bool((logits.argmax(-1).numpy() == taught.tokens[1 : taught.cu_seqlens[1]]).all())
    assert score.right == int(all_right)


def test_kinds_add_up_their_sources() -> None:
    scores = {"a": Score(1, 4, 2.0, 2, 1), "b": Score(1, 6, 3.0, 1, 1), "c": Score(2, 1, 1.0, 1, 0)}
    kinds = by_kind(scores, {"a": {"kind": "vqa"}, "b": {"kind": "vqa"}, "c": {"kind": "caption"}})
    assert kinds == {"caption": Score(2, 1, 1.0, 1, 0), "vqa": Score(2, 10, 5.0, 3, 2)}
    assert kinds["vqa"].loss == 0.5
    assert math.isnan(Score().accuracy)


def test_a_pack_without_targets_counts_nothing() -> None:
    pack = packs()[0].without_loss()
    assert evaluate(tiny_model(), [pack], LAYOUT, CPU) == {}


def _plain(model: torch.nn.Module, sample: Pack) -> Score:
    with torch.no_grad():
        logits = model.logits(collate([sample], LAYOUT))  # type: ignore[operator]
    nats, answers, right, open_answer, hit = 0.0, 0, 0, False, True
    for place in range(1, len(sample.tokens)):
        if not sample.loss_mask[place]:
            right += open_answer and hit
            open_answer = False
            continue
        answers, hit = (answers, hit) if open_answer else (answers + 1, True)
        open_answer = True
        target = torch.tensor(int(sample.tokens[place]))
        nats += float(F.cross_entropy(logits[place - 1], target))
        hit = hit and int(logits[place - 1].argmax()) == int(target)
    right += open_answer and hit
    return Score(1, int(sample.loss_mask.sum()), nats, answers, right)
