"""A chat with an image, through transformers' processor and model out of an export, and through our build and batch.

The same ids, the same pixels, the same logits, the same answer.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import Pack
from mindvl_data.stream import PackStream
from mindvl_train.answers import asking
from mindvl_train.answers.opened import open_model
from mindvl_train.answers.shown import picture
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import BatchLayout, collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.loop.run import train
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import SPEC, VLM, VLMConfig
from mindvl_train.weights.imported import read_imported
from mindvl_train.weights.published.exporting import export_model
from mindvl_train.weights.published.family import PublishedError
from mindvl_train.weights.published.importing import import_model
from tests.conftest import QUICKSTART
from tests.mindvl_train.parity import DECODER, DELTA, QWEN3_ROPE, QWEN3_VISION, ROPE, VISION, Joint, _drawn
from tests.mindvl_train.synthetic import QWEN3_5

VOCAB_SIZE, SEQ_LEN, NEW_TOKENS = 4096, 96, 6
IDS = {"image_token_id": 4094, "video_token_id": 4095, "vision_start_token_id": 4091, "vision_end_token_id": 4092}
DECODER_IDS = {"vocab_size": VOCAB_SIZE, "bos_token_id": 4082, "eos_token_id": 4084, "pad_token_id": 4082}
QUESTION, ANSWER = "What is on this page?", "A red square and a name."
MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
    {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
]
# The published templates, with what is said of videos and tools left out; Qwen3-VL has no system turn of its own.
DEFAULT_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
)
PUBLISHED_TEMPLATE = (
    "{% for message in messages %}DEFAULT<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# As published: it asks with the beginning of a thought.
QWEN3_5_TEMPLATE = Path(__file__).parents[3] / "mindvl_data" / "tokenise" / "templates" / "qwen3_5.jinja"
DECODER_SIZES = {key: DECODER[key] for key in list(DECODER)[1:6]} | {"vocab_size": VOCAB_SIZE}
KIND = {"norm": "layer", "gated": False, "patch_bias": True, "mean": [0.5] * 3, "deviation": [0.5] * 3}


@dataclass(frozen=True)
class Family:
    """What differs between the families: what its publisher writes, what a recipe says, and a model of ours."""

    processor: str
    published: Callable[[], Joint]
    template: str
    image_processor: dict[str, Any]
    recipe: dict[str, Any]
    drawn: dict[str, Any]


def _qwen2_5_vl() -> Joint:
    text = DECODER | DECODER_IDS | {"rope_parameters": ROPE | {"mrope_section": [1, 1, 1]}}
    return Joint(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=VISION, **IDS)))


def _qwen3_vl() -> Joint:
    text = DECODER | DECODER_IDS | {"rope_parameters": QWEN3_ROPE, "head_dim": 16}
    config = Qwen3VLConfig(text_config=text, vision_config=QWEN3_VISION, **IDS)
    return Joint(Qwen3VLForConditionalGeneration(config))


def _qwen3_5() -> Joint:
    text = DECODER | DECODER_IDS | DELTA
    config = Qwen3_5Config(text_config=text, vision_config=_without(QWEN3_VISION, "deepstack_visual_indexes"), **IDS)
    return Joint(Qwen3_5ForConditionalGeneration(config))


def _without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != key}


FAMILIES = {
    "qwen2.5-vl": Family(
        processor="Qwen2_5_VLProcessor",
        published=_qwen2_5_vl,
        template=PUBLISHED_TEMPLATE.replace("DEFAULT", DEFAULT_SYSTEM),
        image_processor={
            "patch_size": 14,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        recipe={"chat_template": "qwen2-vl"},
        drawn={
            "vision": _without(VISION, "out_hidden_size"),
            "decoder": DECODER_SIZES | {"head_dim": 6, "qkv_bias": True, "mrope_section": [1, 1, 1]},
        },
    ),
    "qwen3-vl": Family(
        processor="Qwen3VLProcessor",
        published=_qwen3_vl,
        template=PUBLISHED_TEMPLATE.replace("DEFAULT", ""),
        image_processor={"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        recipe={"processor": "qwen3-vl", "chat_template": "chatml"},
        drawn={
            "vision": _without(QWEN3_VISION, "out_hidden_size") | {"patch_size": 16} | KIND,
            "decoder": DECODER_SIZES
            | {"head_dim": 16, "qk_norm": True, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
    ),
    "qwen3.5": Family(
        processor="Qwen3VLProcessor",
        published=_qwen3_5,
        template=QWEN3_5_TEMPLATE.read_text(),
        image_processor={"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        recipe={"processor": "qwen3-vl", "chat_template": str(QWEN3_5_TEMPLATE)},
        drawn={
            "vision": {key: value for key, value in QWEN3_VISION.items() if not key.startswith(("out_", "deepstack"))}
            | {"patch_size": 16}
            | KIND,
            "decoder": DECODER_SIZES | QWEN3_5 | {"num_hidden_layers": 4, "head_dim": 8, "qk_norm": True},
        },
    ),
}


@dataclass(frozen=True)
class Exported:
    """An export that is one folder, our model with the same weights, and the pack that our build makes of the chat."""

    family: Family
    folder: Path
    ours: VLM
    layout: BatchLayout
    pack: Pack
    image: Image.Image


def _publish(family: Family, folder: Path) -> Path:
    """A small model as its publisher lays it down: weights, tokenizer, template, processor."""
    _drawn(family.published()).save(folder)
    (folder / "tokenizer.json").write_bytes((QUICKSTART / "tokenizer.json").read_bytes())
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": family.template}))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    published = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": family.processor,
        **family.image_processor,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    return folder


def _picture() -> Image.Image:
    """Neither side a multiple of 28, and 1.7 times as wide as high."""
    coarse = Image.fromarray(np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((171, 101))


def _data_set(family: Family, folder: Path, tokenizer: Path) -> Path:
    """The chat as a data set of one pack."""
    folder.mkdir()
    _picture().save(folder / "page.png")
    turns = [{"from": "human", "value": f"<image>{QUESTION}"}, {"from": "gpt", "value": ANSWER}]
    (folder / "chat.json").write_text(json.dumps([{"id": "0", "image": "page.png", "conversations": turns}]))
    recipe: dict[str, Any] = {
        "name": "chat",
        "seed": 1,
        "tokenizer": str(tokenizer),
        "resolution": {"min_pixels": 3136, "max_pixels": 12845056},
        **family.recipe,
        "sources": {"chat": {"format": "llava", "path": "chat.json", "kind": "document"}},
        "stages": {"sft": {"seq_len": SEQ_LEN, "budget": {"epochs": 1}, "mixture": {"chat": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "built").out / f"sft-{SEQ_LEN}" / "manifest.json"


def _run(folder: Path, manifest: Path, model: dict[str, Any]) -> Path:
    """One step."""
    stage = {"manifest": manifest.name, "lr": {"*": 1e-4}, "until": {"packs": 1}, "global_batch": 1}
    config = {"name": "chat", "data": str(manifest.parent), "model": model, "stages": {"sft": stage}}
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    train(load_config(folder / "train.yaml"), "train.yaml", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module", params=product(FAMILIES, ["imported", "imported and trained", "drawn"]), ids=", ".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    name, how = request.param
    family = FAMILIES[name]
    model: dict[str, Any] = {"name": "vlm", "config": family.drawn}
    tokenizer = QUICKSTART / "tokenizer.json"
    if how != "drawn":
        import_model(_publish(family, folder / "published"), None, folder / "ours", seed=0)
        # Without a word on the tokenizer: the import knows its hash, and the data is built with it.
        model = {"name": "vlm", "weights": str(folder / "ours")}
        tokenizer = folder / "ours" / "published" / "language" / "tokenizer.json"
    manifest = _data_set(family, folder / "data", tokenizer)
    source = folder / "ours" if how == "imported" else _run(folder, manifest, model)
    report = export_model(source, folder / "out", tokenizer=tokenizer if how == "drawn" else None)
    assert report.written == (".",)
    assert report.tokenizer
    # Our side starts from the same files, as any user would.
    import_model(folder / "out", None, folder / "again", seed=0)
    imported = read_imported(folder / "again")
    config = VLMConfig(**imported.config)
    with torch.device("meta"):
        ours = VLM(config, resolve(KernelConfig(), "cpu"))
    give_weights(ours, 0, torch.device("cpu"), imported.tensors)
    layout = SPEC.inputs(config).layout(imported.special_ids)
    (pack,) = PackStream(read_manifest(manifest))
    return Exported(family, folder / "out", ours, layout, pack, _picture())


class NoVideo:
    """What stands for the processor of videos."""

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> None:
        return None


@pytest.fixture
def processor(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The whole processor; where torchvision is missing, without the part that reads videos, which needs it."""
    if importlib.util.find_spec("torchvision") is None:
        place = (__name__, NoVideo.__name__)
        monkeypatch.setitem(MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES, "video_processor", place)
        checked = ProcessorMixin.check_argument_for_proper_class
        monkeypatch.setattr(
            ProcessorMixin,
            "check_argument_for_proper_class",
            lambda self, name, part: None if name == "video_processor" else checked(self, name, part),
        )
    return AutoProcessor.from_pretrained(exported.folder)


def _inputs(processor: Any, messages: list[dict[str, Any]], image: Image.Image, *, ask: bool) -> Any:
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    return processor(text=[text], images=[image], return_tensors="pt")


def _chat(pack: Pack, tokens: list[int]) -> Pack:
    """The pack's first segment, with other tokens from its images on."""
    ids = np.array(tokens, np.int32)
    return replace(
        pack,
        tokens=ids,
        loss_mask=np.zeros(len(ids), bool),
        cu_seqlens=np.array([0, len(ids)], np.int32),
        num_tokens=len(ids),
    )


def test_the_processor_makes_of_the_chat_what_our_build_makes(exported: Exported, processor: Any) -> None:
    assert type(processor).__name__ == exported.family.processor
    theirs = _inputs(processor, MESSAGES, exported.image, ask=False)
    pack = exported.pack
    assert theirs["input_ids"][0].tolist() == pack.tokens[: pack.num_tokens].tolist()
    assert theirs["image_grid_thw"].tolist() == [list(image.grid) for image in pack.images]
    # In merge blocks, as everywhere outside a tower with windows.
    patches = collate([pack], replace(exported.layout, window=None)).patches
    torch.testing.assert_close(theirs["pixel_values"], patches, atol=1e-6, rtol=0)


def test_transformers_answers_the_same(exported: Exported, processor: Any) -> None:
    model, info = AutoModelForImageTextToText.from_pretrained(exported.folder, output_loading_info=True)
    assert not any(info.values()), info
    theirs = _inputs(processor, MESSAGES[:1], exported.image, ask=True)
    prompt = theirs["input_ids"][0].tolist()
    with torch.no_grad():
        expected = model.eval()(**theirs, use_cache=False).logits[0]
        found = exported.ours.logits(collate([_chat(exported.pack, prompt)], exported.layout))
        assert (found - expected).abs().max() <= 1e-5
        answer = model.generate(**theirs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, len(prompt) :].tolist()
    ours: list[int] = []
    while len(ours) < len(answer):
        with torch.no_grad():
            logits = exported.ours.logits(collate([_chat(exported.pack, prompt + ours)], exported.layout))
        ours.append(int(logits[-1].argmax()))
    assert ours == answer


def test_a_model_that_was_not_trained_here_is_asked_as_it_was_published(exported: Exported, processor: Any) -> None:
    """Its template's system turn or none, its processor's bounds."""
    opened = open_model(exported.folder)
    file = io.BytesIO()
    exported.image.save(file, "PNG")
    prompt = asking._prompt(opened, asking._tokenizer(opened, None), QUESTION, picture(opened, file.getvalue()))
    theirs = _inputs(processor, MESSAGES[:1], exported.image, ask=True)
    assert prompt.tokens.tolist() == theirs["input_ids"][0].tolist()


def test_a_tokenizer_that_the_data_was_not_built_with_is_refused(tmp_path: Path) -> None:
    family = FAMILIES["qwen2.5-vl"]
    manifest = _data_set(family, tmp_path / "data", QUICKSTART / "tokenizer.json")
    run = _run(tmp_path, manifest, {"name": "vlm", "config": family.drawn})
    other = json.loads((QUICKSTART / "tokenizer.json").read_text())
    other["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(PublishedError, match=r"--tokenizer .*: is .*, the run's data was built with"):
        export_model(run, tmp_path / "out", tokenizer=tmp_path)
    assert not (tmp_path / "out").exists()
