"""How far our models are from transformers' own classes, with the same small random weights in float32.

`python -m tests.mindvl_train.parity` prints the table of docs/models.md.

Weights come to us as a user's would: saved by transformers and imported from its folder. So do gradients: the
oracle saves them in place of its weights, and the import brings them under our names.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from mindvl_data.shards import Pack, PackImage
from mindvl_train import plugins
from mindvl_train.data.batch import Batch, BatchLayout, collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.spec import ModelSpec
from mindvl_train.models.vlm import VLM
from mindvl_train.weights.imported import read_imported
from mindvl_train.weights.published.importing import import_model
from tests.mindvl_train.synthetic import (
    SPECIAL_IDS,
    VIDEO_PAD,
    Sample,
    image_sample,
    pack_of,
    spans_sample,
    text_sample,
    video_sample,
)

VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 24,
    "window_size": 112,
    "fullatt_block_indexes": [1],
}
DECODER = {
    "vocab_size": 56,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
DEVIATION = 0.1


@dataclass(frozen=True)
class Media:
    """Images and videos of a stream as transformers wants them.

    Attributes:
        starts: the first placeholder of each.
        images: as packs have them, patches in merge-block order in theirs.
        patches: of all of them, [N, values of a patch].
    """

    starts: tuple[int, ...]
    images: tuple[PackImage, ...]
    patches: Tensor

    @property
    def grids(self) -> Tensor:
        """[images, 3] int64, in their order."""
        return torch.tensor([image.grid for image in self.images], dtype=torch.int64).reshape(-1, 3)

    def kinds(self, tokens: int) -> Tensor:
        """[T] int64: 1 for an image's placeholders, 2 for a video's."""
        kinds = torch.zeros(tokens, dtype=torch.int64)
        for start, image in zip(self.starts, self.images, strict=True):
            kinds[start : start + image.num_patches // 4] = 2 if image.is_video else 1
        return kinds

    def within(self, start: int, stop: int) -> "Media":
        """Those of one sample."""
        inside = [start <= each < stop for each in self.starts]
        pieces = self.patches.split([image.num_patches for image in self.images]) if self.images else ()
        return Media(
            tuple(each - start for each in compress(self.starts, inside)),
            tuple(compress(self.images, inside)),
            torch.cat([self.patches[:0], *compress(pieces, inside)]),
        )

    def inputs(self) -> dict[str, Tensor]:
        """The arguments of transformers' models; what is of one clip is one video, however a pack has it."""
        pieces = self.patches.split([image.num_patches for image in self.images]) if self.images else ()
        values = {
            video: [piece for piece, i in zip(pieces, self.images, strict=True) if i.is_video == video]
            for video in (False, True)
        }
        images = [image.grid for image in self.images if not image.is_video]
        clips = [list(run) for _, run in groupby((i for i in self.images if i.is_video), lambda image: id(image.data))]
        found = {}
        if images:
            found = {"pixel_values": torch.cat(values[False]), "image_grid_thw": torch.tensor(images)}
        if clips:
            grids = [(sum(image.grid[0] for image in clip), *clip[0].grid[1:]) for clip in clips]
            found |= {"pixel_values_videos": torch.cat(values[True]), "video_grid_thw": torch.tensor(grids)}
        if any(seconds := [clip[0].seconds_per_grid for clip in clips]):
            found["second_per_grid_ts"] = torch.tensor(seconds)
        return found


class Composed(nn.Module):
    """The test-only whole of transformers' modules: its tower's features in its language model's embeddings."""

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.language = language
        self.sparse = isinstance(language, Qwen3MoeForCausalLM)
        self.router_logits: Any = None
        self.vision = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**VISION))

    def logits(self, batch: Batch, media: Media) -> Tensor:
        embeddings = self.language.get_input_embeddings()(batch.ids)
        if media.images:
            features = self.vision(media.patches, grid_thw=media.grids).pooler_output
            embeddings = embeddings.index_copy(0, batch.placeholders, features)
        # Without `use_cache=False` packed samples see each other.
        routers = {"output_router_logits": True} if self.sparse else {}
        positions = batch.positions[None]
        out = self.language(inputs_embeds=embeddings[None], position_ids=positions, use_cache=False, **routers)
        self.router_logits = out.router_logits if self.sparse else None
        return out.logits[0]

    def auxiliary_loss(self, batch: Batch) -> Tensor:
        """Of the routers of the last pass, padding left out."""
        return router_loss(self.router_logits, self.language.config, batch) if self.sparse else torch.zeros(())

    def save(self, folder: Path) -> None:
        """As `export` writes a combination that has no class of its own."""
        self.language.save_pretrained(folder / "language")
        self.vision.save_pretrained(folder / "vision")
        merger = {"ln_q": "norm", "mlp.0": "fc1", "mlp.2": "fc2"}
        projector = {
            name.replace(theirs, ours): tensor
            for theirs, ours in merger.items()
            for name, tensor in self.vision.merger.state_dict().items()
            if name.startswith(theirs)
        }
        save_file(projector, folder / "projector.safetensors")


def router_loss(router_logits: Any, config: Any, batch: Batch) -> Tensor:
    """The auxiliary loss of these routers' logits, times its coefficient."""
    real = torch.zeros(1, len(batch.ids)).index_fill(1, batch.real, 1)
    loss = load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, real)
    return config.router_aux_loss_coef * loss


class Joint(nn.Module):
    """Transformers' own vision-language model, with the positions that it computes for each sample."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.sparse = isinstance(model, Qwen3VLMoeForConditionalGeneration | Qwen3_5MoeForConditionalGeneration)
        # Transformers' states and convolutions run on from one packed sample into the next: each goes through alone.
        self.remembers = isinstance(model, Qwen3_5ForConditionalGeneration | Qwen3_5MoeForConditionalGeneration)
        self.router_logits: Any = None

    def logits(self, batch: Batch, media: Media) -> Tensor:
        positions = torch.cat([batch.positions[None], self._positions(batch, media)])
        if not self.remembers:
            logits, self.router_logits = self._forward(batch.ids, positions, media)
            return logits
        bounds = list(pairwise(batch.segments.cu_seqlens))
        found = [self._forward(batch.ids[a:b], positions[:, a:b], media.within(a, b)) for a, b in bounds]
        parts, routers = zip(*found, strict=True)
        self.router_logits = tuple(torch.cat(layer) for layer in zip(*routers, strict=True)) if self.sparse else None
        return torch.cat(parts)

    def _forward(self, ids: Tensor, positions: Tensor, media: Media) -> tuple[Tensor, Any]:
        routers = {"output_router_logits": True} if self.sparse else {}
        out = self.model(
            input_ids=ids[None],
            position_ids=positions[:, None],
            mm_token_type_ids=media.kinds(len(ids))[None],
            use_cache=False,
            **media.inputs(),
            **routers,
        )
        return out.logits[0], out.router_logits if self.sparse else None

    def _positions(self, batch: Batch, media: Media) -> Tensor:
        """[3, T], one sample after another."""
        per_sample = []
        for start, stop in pairwise(batch.segments.cu_seqlens):
            own = media.within(start, stop)
            grids = {name: value for name, value in own.inputs().items() if not name.startswith("pixel")}
            kinds = own.kinds(stop - start)[None]
            positions, _ = self.model.model.get_rope_index(
                batch.ids[None, start:stop], mm_token_type_ids=kinds, **grids
            )
            per_sample.append(positions[:, 0])
        return torch.cat(per_sample, dim=1)

    def auxiliary_loss(self, batch: Batch) -> Tensor:
        """As of `Composed`."""
        return router_loss(self.router_logits, self.model.config.text_config, batch) if self.sparse else torch.zeros(())

    def save(self, folder: Path) -> None:
        """As its publisher lays it down: experts transposed, which transformers saves as it holds them, or, Qwen3.5's,
        together, which it saves one by one."""
        self.model.save_pretrained(folder)
        if self.sparse and self.remembers:
            path = folder / "model.safetensors"
            others = {name: each for name, each in load_file(path).items() if ".mlp.experts." not in name}
            held = self.model.state_dict()
            fused = {name: each.contiguous() for name, each in held.items() if ".mlp.experts." in name}
            save_file(others | fused, path, metadata={"format": "pt"})
        elif self.sparse:
            path = folder / "model.safetensors"
            tensors = load_file(path)
            turned = {name: each.mT.contiguous() for name, each in tensors.items() if ".mlp.experts." in name}
            save_file(tensors | turned, path, metadata={"format": "pt"})


def _qwen2_5_vl() -> Joint:
    text = DECODER | {"rope_parameters": ROPE | {"mrope_section": [1, 1, 1]}}
    return Joint(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=VISION, **IDS)))


QWEN3_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 24,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 2],
}
QWEN3_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
IDS = {"image_token_id": 5, "video_token_id": VIDEO_PAD, "vision_start_token_id": 3, "vision_end_token_id": 4}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "mlp_only_layers": [1],
    # Large, so that a gradient without it is told apart.
    "router_aux_loss_coef": 0.5,
}


def _qwen3_vl(model: Any, config: Any, **settings: Any) -> Callable[[], Joint]:
    text = DECODER | {"head_dim": 16, "rope_parameters": QWEN3_ROPE, "tie_word_embeddings": False} | settings
    tied = {"tie_word_embeddings": text["tie_word_embeddings"]}
    return lambda: Joint(model(config(text_config=text, vision_config=QWEN3_VISION, **IDS, **tied)))


DELTA = {
    "head_dim": 16,
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 8,
    "rope_parameters": QWEN3_ROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
}
# As many keys as values, filters of three tokens, layers in no order, heads turned by three pairs of dimensions.
ODD_DELTA = DELTA | {
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 3,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 3,
    "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"],
    "head_dim": 12,
    "num_key_value_heads": 1,
    "rope_parameters": QWEN3_ROPE | {"mrope_section": [1, 1, 1], "partial_rotary_factor": 0.5},
}
SHARED_EXPERT = {key: value for key, value in EXPERTS.items() if key != "mlp_only_layers"} | {
    "shared_expert_intermediate_size": 20
}


def _qwen3_5(model: Any, config: Any, **settings: Any) -> Callable[[], Joint]:
    text = DECODER | {"tie_word_embeddings": False} | DELTA | settings
    vision = {key: value for key, value in QWEN3_VISION.items() if key != "deepstack_visual_indexes"}
    tied = {"tie_word_embeddings": text["tie_word_embeddings"]}
    return lambda: Joint(model(config(text_config=text, vision_config=vision, **IDS, **tied)))


def _composed(model: Any, config: Any, **settings: Any) -> Callable[[], Composed]:
    return lambda: Composed(model(config(**DECODER | {"rope_parameters": ROPE} | settings)))


CASES: dict[str, Callable[[], Composed | Joint]] = {
    "Qwen2.5-VL": _qwen2_5_vl,
    "Qwen3-VL": _qwen3_vl(Qwen3VLForConditionalGeneration, Qwen3VLConfig),
    "Qwen3-VL, tied": _qwen3_vl(Qwen3VLForConditionalGeneration, Qwen3VLConfig, tie_word_embeddings=True),
    "Qwen3-VL-MoE": _qwen3_vl(Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig, **EXPERTS),
    "Qwen3.5": _qwen3_5(Qwen3_5ForConditionalGeneration, Qwen3_5Config),
    "Qwen3.5, tied": _qwen3_5(Qwen3_5ForConditionalGeneration, Qwen3_5Config, tie_word_embeddings=True),
    "Qwen3.5, odd": _qwen3_5(Qwen3_5ForConditionalGeneration, Qwen3_5Config, **ODD_DELTA),
    "Qwen3.5-MoE": _qwen3_5(Qwen3_5MoeForConditionalGeneration, Qwen3_5MoeConfig, **SHARED_EXPERT),
    "Qwen2.5-ViT + Qwen2.5": _composed(Qwen2ForCausalLM, Qwen2Config),
    "Qwen2.5-ViT + Qwen3": _composed(Qwen3ForCausalLM, Qwen3Config, head_dim=8),
    "Qwen2.5-ViT + Qwen3-MoE": _composed(
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        head_dim=8,
        norm_topk_prob=True,
        **EXPERTS,
    ),
    "Qwen2.5-ViT + DeepSeek-V3": _composed(
        DeepseekV3ForCausalLM,
        DeepseekV3Config,
        num_key_value_heads=4,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=3,
        moe_intermediate_size=12,
        n_group=4,
        topk_group=2,
        first_k_dense_replace=1,
        q_lora_rank=12,
        kv_lora_rank=10,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=8,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
        },
    ),
    "Qwen2.5-ViT + Qwen3, tied": _composed(Qwen3ForCausalLM, Qwen3Config, head_dim=8, tie_word_embeddings=True),
}


@dataclass(frozen=True)
class Figures:
    """What a comparison found.

    Attributes:
        logits: the largest difference, by what was compared.
        gradients: norm of the difference over norm, by parameter.
        largest_logit: of the oracle.
        logits_of_another: the largest difference when our weights are others.
    """

    logits: dict[str, float]
    gradients: dict[str, float]
    largest_logit: float
    logits_of_another: float

    def worst_gradients(self) -> list[tuple[float, str]]:
        return sorted(((value, name) for name, value in self.gradients.items()), reverse=True)[:5]


def samples() -> list[Sample]:
    """Text; an image smaller than a window; one of six windows, four of them cut; text of the same length."""
    rng = np.random.default_rng(5)
    return [text_sample(rng, 9), image_sample(rng, (4, 6), 5), image_sample(rng, (10, 18), 7), text_sample(rng, 9)]


def clips(spans: bool) -> list[Sample]:
    """A video of three groups of frames, of windows that are cut; an image; a video whose groups are less than a
    position in time apart; text.

    Args:
        spans: whether every group is an image of its own behind a time, as Qwen3-VL has it.
    """
    rng = np.random.default_rng(6)
    video = (lambda *args: spans_sample(*args[:3])) if spans else video_sample
    return [
        video(rng, (3, 6, 10), 5, 1.3),
        image_sample(rng, (4, 6), 4),
        video(rng, (2, 4, 4), 6, 0.2),
        text_sample(rng, 9),
    ]


def measure(build: Callable[[], Composed | Joint], folder: Path) -> Figures:
    """Builds an oracle, imports its weights and compares."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        oracle = _drawn(build())
    ours, layout = _imported(oracle, folder / "weights")
    pack = pack_of(samples(), 88)
    comparisons = {"packed": [pack], "two packs": [pack, pack_of(samples()[:2])]}
    comparisons |= {"alone, text": [pack_of(samples()[:1])], "alone, image": [pack_of(samples()[2:3])]}
    moving = clips(spans=built(folder / "weights").vision.pos_embed is not None)
    videos = pack_of(moving, 150)
    comparisons |= {"packed, video": [videos], "alone, video": [pack_of(moving[:1])]}
    differences, largest = {}, 0.0
    with torch.no_grad():
        for name, packs in comparisons.items():
            batch = collate(packs, layout)
            # Padding reaches no expert of ours, and transformers does not know it: nobody reads what follows it.
            expected = oracle.logits(*_oracle_inputs(packs, layout))[batch.real]
            differences[name] = _apart(ours.logits(batch)[batch.real], expected)
            largest = max(largest, expected.abs().max().item())
        with torch.device("meta"):
            other = built(folder / "weights")
        give_weights(other, 1, torch.device("cpu"))
        another = _apart(other.logits(collate([pack], layout)), oracle.logits(*_oracle_inputs([pack], layout)))
    return Figures(differences, _gradients(oracle, ours, [pack, videos], layout, folder), largest, another)


def _drawn(oracle: Composed | Joint) -> Composed | Joint:
    """Weights larger than transformers draws them, norms and biases among them, so that everything counts."""
    generator = torch.Generator().manual_seed(3)
    # The norm behind a delta rule divides by what little a first token hears of itself: with larger weights float32
    # alone makes 1e-5 of it, in transformers' model as in ours, against float64.
    deviation = DEVIATION / 2 if isinstance(oracle, Joint) and oracle.remembers else DEVIATION
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * deviation)
            # Heads that forget at once: transformers' decays are differences of sums, and its gradients of these rates
            # a thousandth off those in float64, where ours are not (`kernels/delta_rule.py`).
            if name.endswith("A_log"):
                parameter.clamp_(max=0.0)
        for name, buffer in oracle.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * DEVIATION)
    return oracle.eval()


def built(weights: Path) -> VLM:
    """Our model of an imported folder, without its weights."""
    imported = read_imported(weights / "imported")
    spec: ModelSpec = plugins.load(plugins.MODELS, imported.model)
    model = spec.build(spec.config(**imported.config), resolve(KernelConfig(), "cpu"))
    assert isinstance(model, VLM)
    return model


def _imported(oracle: Composed | Joint, folder: Path) -> tuple[VLM, BatchLayout]:
    oracle.save(folder / "published")
    import_model(folder / "published", None, folder / "imported", seed=0)
    imported = read_imported(folder / "imported")
    spec: ModelSpec = plugins.load(plugins.MODELS, imported.model)
    inputs = spec.inputs(spec.config(**imported.config))
    with torch.device("meta"):
        model = built(folder)
    give_weights(model, 0, torch.device("cpu"), imported.tensors)
    return model, inputs.layout(SPECIAL_IDS | {"video_pad": VIDEO_PAD})


def _oracle_inputs(packs: Sequence[Pack], layout: BatchLayout) -> tuple[Batch, Media]:
    """Patches in merge-block order, positions along the text: what transformers takes."""
    batch = collate(packs, replace(layout, window=None, position_axes=1))
    begins = accumulate((len(pack.tokens) for pack in packs), initial=0)
    starts = [image.start + begin for pack, begin in zip(packs, begins, strict=False) for image in pack.images]
    return batch, Media(tuple(starts), tuple(image for pack in packs for image in pack.images), batch.patches)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()


def _gradients(
    oracle: Composed | Joint, ours: VLM, packs: Sequence[Pack], layout: BatchLayout, folder: Path
) -> dict[str, float]:
    batch = collate(packs, layout)
    (ours(batch) / batch.total_weight).backward()
    logits = oracle.logits(*_oracle_inputs(packs, layout))
    (F.cross_entropy(logits[batch.predictors], batch.targets) + oracle.auxiliary_loss(batch)).backward()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.copy_(parameter.grad)
    oracle.save(folder / "gradients" / "published")
    import_model(folder / "gradients" / "published", None, folder / "gradients" / "imported", seed=0)
    expected = read_imported(folder / "gradients" / "imported").tensors
    return {
        name: ((parameter.grad - expected[name]).norm() / expected[name].norm()).item()
        for name, parameter in ours.named_parameters()
        if parameter.grad is not None
    }


def table() -> Iterator[str]:
    """The figures of every case as lines of Markdown."""
    columns = ["packed", "two packs", "alone, text", "alone, image", "packed, video", "alone, video"]
    yield f"| model | {' | '.join(f'logits, {column}' for column in columns)} | gradients, worst tensor |"
    yield "|---" * (len(columns) + 2) + "|"
    for name, build in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(build, Path(folder))
        logits = " | ".join(f"{figures.logits[column]:.0e}" for column in columns)
        yield f"| {name} | {logits} | {max(figures.gradients.values()):.0e} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
