"""A manifest whose tokenizer or patches do not fit the model is refused."""

from pathlib import Path
from typing import Any

import pytest

from mindvl_data.manifest import Manifest, read_manifest
from mindvl_data.vision import CLIP, Normalisation
from mindvl_train.loop.tokenizer_fit import FitError, check_fit
from mindvl_train.models.spec import ModelInputs
from tests.mindvl_train.synthetic import SPECIAL_IDS, VOCAB_SIZE, mixed_packs, write_data_set

FITS = ModelInputs(vocab_size=VOCAB_SIZE, patch=14, merge=2)


def _known(tokenizer_sha256: str | None = None, special_ids: dict[str, int] | None = None) -> tuple[Any, Any]:
    return tokenizer_sha256, special_ids or {}


def _manifest(folder: Path, **tokenizer: Any) -> Manifest:
    return read_manifest(write_data_set(folder, mixed_packs(1, 24), **tokenizer))


def test_a_padded_embedding_fits(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path / "one")
    check_fit([manifest], FITS, *_known())
    check_fit([manifest], ModelInputs(vocab_size=64, patch=14, merge=2), *_known(special_ids=SPECIAL_IDS))


@pytest.mark.parametrize(
    ("inputs", "stated", "message"),
    [
        (ModelInputs(40, 14, 2), {}, "its tokenizer has 50 tokens, the model's vocab_size is 40"),
        (ModelInputs(50, 16, 2), {}, "its resolution.patch is 14, the model's is 16"),
        (ModelInputs(50, 14, 1), {}, "its resolution.merge is 2, the model's is 1"),
        (
            ModelInputs(50, 14, 2, Normalisation((0.5, 0.5, 0.5), CLIP.deviation)),
            {},
            f"its pixels have the mean {list(CLIP.mean)}, the model's tower is made for [0.5, 0.5, 0.5]",
        ),
        (FITS, {"tokenizer_sha256": "f" * 64}, f"its tokenizer is {'0' * 64}, the model's is {'f' * 64}"),
        (FITS, {"special_ids": {"image_pad": 9}}, "its image_pad is token 5, the model's is 9"),
        (FITS, {"special_ids": {"audio_pad": 9}}, "its audio_pad is token None, the model's is 9"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, inputs: ModelInputs, stated: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError) as caught:
        check_fit([_manifest(tmp_path / "one")], inputs, *_known(**stated))
    assert message in str(caught.value)
    assert "build the data set again" in str(caught.value)


def test_a_set_without_videos_need_not_know_their_token_and_one_with_them_must(tmp_path: Path) -> None:
    known = _known(special_ids={"video_pad": 9})
    check_fit([_manifest(tmp_path / "without")], FITS, *known)
    check_fit([_manifest(tmp_path / "with", special_ids=SPECIAL_IDS | {"video_pad": 9})], FITS, *known)
    other = _manifest(tmp_path / "other", special_ids=SPECIAL_IDS | {"video_pad": 8})
    with pytest.raises(FitError, match="its video_pad is token 8, the model's is 9"):
        check_fit([other], FITS, *known)


def test_special_tokens_must_lie_in_the_embedding(tmp_path: Path) -> None:
    outside = _manifest(tmp_path / "one", special_ids=SPECIAL_IDS | {"image_pad": 70})
    with pytest.raises(FitError, match="its image_pad is token 70, the model's vocab_size is 50"):
        check_fit([outside], FITS, *_known())


def test_stages_must_share_one_tokenizer(tmp_path: Path) -> None:
    manifests = [_manifest(tmp_path / "one"), _manifest(tmp_path / "two", sha256="1" * 64)]
    with pytest.raises(FitError, match=r"two.manifest.json: its tokenizer is 1{64}, the model's is 0{64}"):
        check_fit(manifests, FITS, *_known())
