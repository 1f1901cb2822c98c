"""Chat templates by name: one of the tables, `tokenizer` for the tokenizer's own Jinja, or a file of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mindvl_data.errors import UserError
from mindvl_data.runtime.sandbox import EndlessError, RenderError, check, render
from mindvl_data.tokenise.jinja import PROBE, JinjaTemplate
from mindvl_data.tokenise.render import TEMPLATES, ChatTemplate
from mindvl_data.tokenise.tokeniser import Tokeniser

TOKENIZER: Final = "tokenizer"
CONFIG: Final = "tokenizer_config.json"
# Where published tokenizers keep their template, the first that is there counts, as for transformers.
FILES: Final = ("chat_template.jinja", "chat_template.json", CONFIG)
# The variables that transformers gives a template: the tokenizer's special tokens by their use.
USES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TemplateError(UserError):
    """A chat template that cannot be used; the message says what, where and what to do."""


def load_template(name: str, tokenizer: str, root: Path, tokeniser: Tokeniser) -> ChatTemplate | JinjaTemplate:
    """The chat template of a recipe.

    Args:
        name: as the recipe has it: of a table, `tokenizer`, or a file relative to `root`.
        tokenizer: the tokenizer's name in the recipe.
        root: the recipe's folder.
        tokeniser: what that tokenizer is.

    Raises:
        TemplateError: there is none, or it is no template.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not tokeniser.pieced:
        raise TemplateError(
            f"chat_template {name}: with the tokenizer {tokenizer} a text behind a special token has other ids than "
            "alone (Metaspace with prepend_scheme `first` makes it so), and they would not be those of transformers; "
            "use another tokenizer, or one of the tables"
        )
    home = _home(tokenizer, root)
    texts = _own(home, tokenizer) if name == TOKENIZER else _texts(root / name, name)
    where = f"chat_template of the tokenizer {tokenizer}" if name == TOKENIZER else f"chat_template {name}"
    for each in texts.values():
        try:
            check(each)
        except RenderError as error:
            raise TemplateError(f"{where}: is no template in Jinja ({error}); correct it") from error
    text = texts.get("default")
    if text is None:
        raise TemplateError(
            f"{where}: there are templates called {', '.join(sorted(texts))} and no `default`; write the one to be "
            "used into a file and name that"
        )
    template = JinjaTemplate(
        name=name,
        text=text,
        tool_text=texts.get("tool_use"),
        values=tuple(sorted(_values(home).items())),
        controls=tuple(sorted(tokeniser.controls)),
        added=tuple(sorted(tokeniser.added)),
        day=_today() if any("strftime_now" in each for each in texts.values()) else None,
    )
    _check_ends(template, where)
    return template


def _check_ends(template: JinjaTemplate, where: str) -> None:
    """Raises TemplateError for a template that would take its time for each sample and then drop it."""
    asked = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), PROBE, strict=True)]
    try:
        render(template.text, asked, values=dict(template.values))
    except EndlessError as error:
        raise TemplateError(f"{where}: does not end ({error}, for two short messages); correct it") from error
    except RenderError:
        return  # others may refuse such a conversation


def _today() -> str:
    """The day of the build; that of SOURCE_DATE_EPOCH to build the same again (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(given), UTC) if re.fullmatch(r"\d{1,11}", given) else datetime.now()
    return now.date().isoformat()


def _home(tokenizer: str, root: Path) -> dict[str, Path]:
    """The small files beside a tokenizer, by name, of those that are there."""
    path = root / tokenizer
    folder = path if path.is_dir() else path.parent
    if path.exists():
        return {name: folder / name for name in (*FILES, "special_tokens_map.json") if (folder / name).is_file()}
    return {} if tokenizer == "qwen" else _hub_files(tokenizer)


def _hub_files(tokenizer: str) -> dict[str, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    identifier, _, revision = tokenizer.partition("@")
    found = {}
    for name in (*FILES, "special_tokens_map.json"):
        try:
            found[name] = Path(hf_hub_download(identifier, name, revision=revision or "main"))
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise TemplateError(
                f"chat_template: the Hugging Face hub did not give {name} of {identifier} ({error}); download it and "
                "name that file"
            ) from error
    return found


def _own(home: Mapping[str, Path], tokenizer: str) -> dict[str, str]:
    for name in FILES:
        if name in home and (texts := _texts(home[name], name, must=False)):
            return texts
    raise TemplateError(
        f"chat_template: the tokenizer {tokenizer} has no template of its own (in {', '.join(FILES)}); name a file "
        f"with one, or one of the tables: {', '.join(sorted(TEMPLATES))}"
    )


def _texts(path: Path, name: str, must: bool = True) -> dict[str, str]:
    """The templates in a file, by their names: of Jinja, or of JSON with a `chat_template`. Raises TemplateError."""
    if must and not path.is_file():
        raise TemplateError(
            f"chat_template: there is no template {name!r} and no such file relative to the recipe; name a file, "
            f"{TOKENIZER}, or one of the tables: {', '.join(sorted(TEMPLATES))}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"chat_template {name}: cannot be read ({error})") from error
    if path.suffix != ".json":
        return {"default": text}
    found = _json(path, text).get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list) and all(isinstance(one, dict) and {"name", "template"} <= one.keys() for one in found):
        return {str(one["name"]): str(one["template"]) for one in found}
    if must:
        raise TemplateError(f"chat_template {name}: its JSON has no `chat_template` with a text")
    return {}


def _values(home: Mapping[str, Path]) -> dict[str, str]:
    """The special tokens by their use, as the tokenizer's configuration has them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", CONFIG):
        if name in home:
            config = _json(home[name], home[name].read_text(encoding="utf-8"))
            for use in USES:
                value = config.get(use)
                value = value.get("content") if isinstance(value, dict) else value
                found |= {use: value} if isinstance(value, str) else {}
    return found


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"{path}: is not JSON ({error})") from error
    return found if isinstance(found, dict) else {}
