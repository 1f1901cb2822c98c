"""Which library a build encodes with: the same data set by either, and what is said when the faster one is given up."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.count import counting
from mindvl_data.tokenise.fast import FastEncoder, OtherIdsError
from tests.conftest import QUICKSTART

# The module: the package gives the function of this name.
PREPARE = sys.modules["mindvl_data.pipeline.prepare"]


def manifests(report: BuildReport) -> list[dict[str, Any]]:
    return [json.loads((report.out / stage.name / "manifest.json").read_text()) for stage in report.stages]


def ids(report: BuildReport) -> list[str]:
    return [manifest["id"] for manifest in manifests(report)]


def test_the_faster_library_gives_the_same_data_set(
    quickstart: BuildReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    encode_texts = FastEncoder.encode_texts

    def noting(self: FastEncoder, texts: Any, *rest: Any) -> Any:
        used.append(len(texts))
        return encode_texts(self, texts, *rest)

    monkeypatch.setattr(FastEncoder, "encode_texts", noting)
    monkeypatch.setattr(PREPARE, "CHARACTERS_TO_LOAD", 0)
    report = build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path / "out")
    assert used
    assert manifests(report) == manifests(quickstart)


def test_it_is_given_up_for_the_whole_build_at_the_first_difference(
    quickstart: BuildReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode_texts, calls = FastEncoder.encode_texts, []

    def differing(self: FastEncoder, texts: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OtherIdsError(texts[0])
        return encode_texts(self, texts, *rest)

    monkeypatch.setattr(FastEncoder, "encode_texts", differing)
    monkeypatch.setattr(PREPARE, "CHARACTERS_TO_LOAD", 0)
    with caplog.at_level(logging.WARNING):
        report = build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path / "out")
    (line,) = [record.getMessage() for record in caplog.records if "fastokens" in record.getMessage()]
    assert "other ids than tokenizers" in line
    assert ids(report) == ids(quickstart)
    for manifest in manifests(report):
        said = manifest["tokenizer"].pop("other_ids")
        assert said["uri"] in line
        assert 0 < len(said["text"]) <= counting.MOST_SHOWN
    # What was found is kept: the next build does not try again, and says it again.
    again = build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path / "out")
    assert manifests(again) == manifests(report)
