"""From the rows of `mindvl_data export --to datasets` to what lmms-eval asks; found by mindvl_holdout.yaml."""

from typing import Any


def questions(rows: Any) -> Any:
    """Of rows with a picture and a conversation, the first question and its answer."""
    asked = rows.filter(lambda row: row["images"] and _text(row, "user") and _text(row, "assistant"))
    return asked.map(lambda row: {"question": _text(row, "user"), "answer": _text(row, "assistant")})


def pictures(row: dict[str, Any]) -> list[Any]:
    return [image.convert("RGB") for image in row["images"]]


def _text(row: dict[str, Any], role: str) -> str:
    """What the first message of a role says."""
    for message in row["messages"]:
        if message["role"] == role:
            return "".join(part["text"] or "" for part in message["content"]).strip()
    return ""
