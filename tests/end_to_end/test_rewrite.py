"""Captions and answers rewritten by a real local endpoint; what they were stays in the sample's story."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mindvl_data.exports import export
from mindvl_data.inspect.explain import stories
from mindvl_data.inspect.peek import peek
from mindvl_data.manifest import read_manifest
from mindvl_data.recipe import RecipeError
from mindvl_data.stream import PackStream
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.crawl import built, crawl, picture
from tests.mindvl_data.endpoint import requests


def rewrite(url: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "recaption",
        "endpoint": url,
        "model": "a-model",
        "api_key": "${JUDGE_KEY}",
        "timeout": 5,
        "prompt": "Describe the picture; it was described so.\nText: {text}\n",
        **more,
    }


def trained_on(out: Path) -> str:
    """All text of the packs."""
    tokeniser = load_tokeniser(str(QUICKSTART / "tokenizer.json"), QUICKSTART)
    packs = PackStream(out / "only-256", media_root=out.parent)
    return "".join(tokeniser.decode(pack.tokens[: pack.num_tokens].tolist()) for pack in packs)


def test_low_scored_captions_are_replaced_and_their_story_tells_of_both(
    tmp_path: Path, address: tuple[str, Path]
) -> None:
    captions = [
        ("says a cat on a red mat", 0.1),
        ("a good caption", 0.9),
        ("refuse to rewrite", 0.1),
        ("says " + "x" * 60, 0.1),
        ("says a dog in the rain", 0.2),
    ]
    crawl(tmp_path / "crawl.parquet", [{"caption": caption, "clip": clip} for caption, clip in captions])
    rule = rewrite(address[0], where="clip < 0.25", most_chars=50)
    filters = [{"name": "not the last", "where": "key <> '4'"}]
    report = built(tmp_path, rewrite=[rule], filters=filters)
    assert report.work["ask recaption"] == 3
    text = trained_on(report.out)
    assert "a cat on a red mat" in text
    assert "says a cat" not in text
    assert "a good caption" in text
    assert "refuse to rewrite" in text
    manifest = read_manifest(report.out / "only-256")
    told = manifest.data["rewritten"]["recaption"]
    assert (told["asked"], told["rewritten"]) == (3, 1)
    (story,) = stories(manifest, "0")
    assert story["rewritten"] == {"from": ["says a cat on a red mat"], "to": ["a cat on a red mat"]}
    assert stories(manifest, "1")[0]["rewritten"] == {}
    assert not built(tmp_path, rewrite=[rule], filters=filters).work
    # Less is rewritten: nobody is asked, and the scan stays.
    fewer = built(tmp_path, rewrite=[{**rule, "where": "clip < 0.05"}], filters=filters)
    assert {name for name in fewer.work if "ask" in name or name == "scan"} == set()
    assert "says a cat" in trained_on(fewer.out)


def test_an_answer_is_replaced_where_there_is_one(tmp_path: Path, address: tuple[str, Path]) -> None:
    def sample(*answers: str) -> dict[str, Any]:
        turns = [{"user": f"question {i}", "assistant": answer} for i, answer in enumerate(answers)]
        return {"texts": turns, "images": [{"bytes": picture(1)}]}

    rows = [sample("says a new answer"), sample("first", "second")]
    pl.DataFrame(rows).write_parquet(tmp_path / "fine.parquet")
    sources = {"crawl": {"format": "finevision", "path": "fine.parquet", "kind": "instruction"}}
    rule = rewrite(address[0], replace="answer", prompt="Better?\nText: {text}\n", images=False)
    prompts = len(requests(address[1]))
    report = built(tmp_path, sources=sources, rewrite=[rule])
    assert report.work["ask recaption"] == 1
    asked = requests(address[1])[prompts:]
    assert [request["images"] for request in asked] == [[]]
    assert "question 0" in asked[0]["prompt"]
    text = trained_on(report.out)
    assert "says a new answer" not in text
    assert "question 0" in text
    assert "second" in text
    export(read_manifest(report.out / "only-256"), "webdataset", tmp_path / "exported", media_root=report.out.parent)
    samples = peek(next((tmp_path / "exported").glob("*.tar"))).samples
    exported = [part.text for one in samples for part in one.parts if part.text is not None]
    assert all(said in text for said in exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"where": "klip < 3"}, r"rewrite\.0\.where: there is no column 'klip'"),
        ({"where": "text_chars"}, r"rewrite\.0\.where: 'text_chars' is Int32, not true or false"),
        ({"sources": ["y"]}, r"rewrite\.0\.sources: there is no source 'y'"),
        ({"api_key": "secret"}, r"rewrite\.0\.api_key: stands in the recipe"),
    ],
)
def test_a_rule_that_cannot_be_is_named_by_its_place(
    tmp_path: Path, address: tuple[str, Path], change: dict[str, Any], message: str
) -> None:
    crawl(tmp_path / "crawl.parquet", [{}])
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, rewrite=[rewrite(address[0], **change)])
