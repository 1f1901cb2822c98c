"""What is found out about a tokenizer once: kept, made again when damaged, never needed."""

from pathlib import Path

import pytest

from mindvl_data.tokenise import known
from mindvl_data.tokenise.tokeniser import load_tokeniser
from tests.conftest import QUICKSTART


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "cache"))
    return []


def ask(made: list[int], source: bytes = b"ranks", text: str = "ä\r\n{}\n") -> str:
    return known.text("name", source, lambda: [made.append(1), text][1])


def test_it_is_made_once_for_each_source(made: list[int]) -> None:
    assert [ask(made), ask(made), ask(made, b"others")] == ["ä\r\n{}\n"] * 3
    assert len(made) == 2


def test_what_is_damaged_is_made_again(made: list[int], tmp_path: Path) -> None:
    ask(made)
    (path,) = (tmp_path / "cache" / "tokenizers").iterdir()
    for content in (path.read_bytes()[:-1], b"", b"\xff\n{}"):
        path.write_bytes(content)
        assert ask(made) == "ä\r\n{}\n"
    assert len(made) == 4
    assert ask(made) == "ä\r\n{}\n"
    assert len(made) == 4


def test_where_nothing_can_be_kept_it_is_made_each_time(made: list[int], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert [ask(made), ask(made)] == ["ä\r\n{}\n"] * 2
    assert len(made) == 2


def test_a_tokenizer_that_is_known_is_not_parsed(
    made: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load_tokeniser.__globals__["_from_json"].cache_clear()
    first = load_tokeniser("tokenizer.json", QUICKSTART)
    load_tokeniser.__globals__["_from_json"].cache_clear()
    monkeypatch.setitem(load_tokeniser.__globals__, "_facts", None)
    again = load_tokeniser("tokenizer.json", QUICKSTART)
    assert (again.hash, again.vocab_size, again.special_ids) == (first.hash, first.vocab_size, first.special_ids)
    assert again.encode_texts(["water"], {}).ids.tolist() == first.encode_texts(["water"], {}).ids.tolist()
