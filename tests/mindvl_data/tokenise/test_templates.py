"""Chat templates by name: tables, the tokenizer's own, files; and what is said of one that cannot be used."""

import json
from pathlib import Path

import pytest

from mindvl_data.tokenise import TEMPLATES, ChatTemplate, JinjaTemplate, TemplateError, load_template, load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.tokenise.published import write

CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"


def load(folder: Path, name: str = "tokenizer") -> ChatTemplate | JinjaTemplate:
    return load_template(name, ".", folder, load_tokeniser(".", folder))


def jinja(folder: Path, name: str = "tokenizer") -> JinjaTemplate:
    found = load(folder, name)
    assert isinstance(found, JinjaTemplate)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, "llama3")


def test_a_tables_name_is_that_table(folder: Path) -> None:
    assert load(folder, "chatml") is TEMPLATES["chatml"]


def test_a_tokenizers_own_template_knows_its_special_tokens(folder: Path) -> None:
    found = jinja(folder)
    assert dict(found.values) == {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    assert found.end == "<|eot_id|>"
    described = found.describe("tokenizer")
    assert described["jinja"] == (folder / "chat_template.jinja").read_text()
    assert (described["name"], described["end"]) == ("tokenizer", "<|eot_id|>")


def test_a_template_in_the_tokenizers_configuration_counts_where_there_is_no_file(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": CHAT}, {"name": "tool_use", "template": "tools " + CHAT}]
    eos = {"content": "<|eot_id|>", "__type": "AddedToken"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named, "eos_token": eos}))
    found = jinja(folder)
    assert (found.text, found.tool_text, dict(found.values)) == (CHAT, "tools " + CHAT, {"eos_token": "<|eot_id|>"})


@pytest.mark.parametrize(
    ("name", "content"), [("mine.jinja", CHAT), ("mine.json", json.dumps({"chat_template": CHAT}))]
)
def test_a_file_is_relative_to_the_recipe(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert jinja(folder, name).text == CHAT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no template 'mine.json' and no such file.*tokenizer, or one of the tables: chatml, qwen2-vl"),
        ("{", "is not JSON"),
        ("{}", "no `chat_template`"),
        (json.dumps({"chat_template": "{% for %}"}), "is no template in Jinja.*line 1"),
        (json.dumps({"chat_template": [{"name": "rag", "template": ""}]}), "templates called rag and no `default`"),
    ],
)
def test_a_file_that_is_no_template_is_named(folder: Path, content: str | None, said: str) -> None:
    if content is not None:
        (folder / "mine.json").write_text(content)
    with pytest.raises(TemplateError, match=said):
        load(folder, "mine.json")


def test_a_tokenizer_without_a_template_says_what_to_do() -> None:
    with pytest.raises(TemplateError, match=r"has no template of its own.*name a file"):
        load_template("tokenizer", "tokenizer.json", QUICKSTART, load_tokeniser("tokenizer.json", QUICKSTART))


def test_a_template_that_asks_for_the_day_is_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "day.jinja").write_text("{{ strftime_now('%d %b %Y') }}" + CHAT)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    found = jinja(folder, "day.jinja")
    assert found.describe("day.jinja")["day"] == "1970-01-02"
    assert found.rendered([{"role": "user", "content": "Hi"}]).startswith("02 Jan 1970user: Hi")


def test_a_template_reaches_nothing_outside_itself(folder: Path) -> None:
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ namespace(__class__=1) }}"):
        (folder / "bad.jinja").write_text(attack)
        with pytest.raises(Exception, match=r"chat template does not take.*(Security|unsafe|underscore)"):
            jinja(folder, "bad.jinja").rendered([{"role": "user", "content": "Hi"}])


def test_a_tokenizer_to_which_the_place_of_a_text_matters_is_refused(folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "Ġ", "prepend_scheme": "first", "split": True}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TemplateError, match="other ids than alone"):
        load(folder)


def test_a_template_without_an_end_is_refused_before_any_sample(folder: Path) -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "endless.jinja").write_text(loops)
    with pytest.raises(TemplateError, match=r"chat_template endless.jinja: does not end .*more than 1,000,000 steps"):
        load(folder, "endless.jinja")


def test_a_template_may_refuse_some_conversations(folder: Path) -> None:
    (folder / "strict.jinja").write_text("{{ raise_exception('three turns at least') }}")
    assert jinja(folder, "strict.jinja").end == ""
