"""Whether a model can be trained on a manifest: its vocabulary, its special tokens, its patches."""

from collections.abc import Iterator, Mapping, Sequence

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest
from mindvl_data.vision import Resolution
from mindvl_train.models.spec import ModelInputs

ADVICE = (
    "build the data set again with the model's tokenizer and processor, or change `model`: where two tokenizers give "
    "the same ids, say so with the set's hash as model.tokenizer_sha256"
)


OPTIONAL = ("video_pad",)


class FitError(UserError):
    """A manifest that was built for another model; says in what they differ."""


def check_fit(
    manifests: Sequence[Manifest],
    inputs: ModelInputs,
    tokenizer_sha256: str | None,
    special_ids: Mapping[str, int],
    advice: str = ADVICE,
) -> None:
    """Compares every manifest with the model, and with the first manifest.

    Args:
        manifests: what is trained on, or asked.
        inputs: of the model.
        tokenizer_sha256: of the tokenizer that its weights know; None: that of the first manifest.
        special_ids: that its weights know.
        advice: what to do about a difference.

    Raises:
        FitError: lists every difference, with the manifest's path.
    """
    expected_sha256 = tokenizer_sha256 or manifests[0].tokenizer["sha256"]
    problems = [
        f"{manifest.path}: {problem}"
        for manifest in manifests
        for problem in _problems(manifest, inputs, expected_sha256, special_ids)
    ]
    if problems:
        raise FitError("\n".join([*problems, advice]))


def _problems(
    manifest: Manifest, inputs: ModelInputs, expected_sha256: str, special_ids: Mapping[str, int]
) -> Iterator[str]:
    tokenizer = manifest.tokenizer
    if tokenizer["vocab_size"] > inputs.vocab_size:
        yield f"its tokenizer has {tokenizer['vocab_size']} tokens, the model's vocab_size is {inputs.vocab_size}"
    if tokenizer["sha256"] != expected_sha256:
        yield f"its tokenizer is {tokenizer['sha256']}, the model's is {expected_sha256}"
    for name, token in tokenizer["special_ids"].items():
        if token >= inputs.vocab_size:
            yield f"its {name} is token {token}, the model's vocab_size is {inputs.vocab_size}"
    for name, token in special_ids.items():
        found = tokenizer["special_ids"].get(name)
        # A set without videos does not say which token is theirs.
        if found != token and not (found is None and name in OPTIONAL):
            yield f"its {name} is token {found}, the model's is {token}"
    yield from _wrong_pixels(manifest.resolution, inputs)


def _wrong_pixels(rule: Resolution, inputs: ModelInputs) -> Iterator[str]:
    for key, found, size in (("patch", rule.patch, inputs.patch), ("merge", rule.merge, inputs.merge)):
        if found != size:
            yield f"its resolution.{key} is {found}, the model's is {size}"
    for key, values, expected in zip(rule.normalisation._fields, rule.normalisation, inputs.normalisation, strict=True):
        if values != expected:
            yield f"its pixels have the {key} {list(values)}, the model's tower is made for {list(expected)}"
