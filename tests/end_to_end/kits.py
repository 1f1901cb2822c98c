"""The forecasts in the READMEs of the kits: `python -m tests.end_to_end.kits` writes them anew."""

import re
from collections.abc import Iterator
from pathlib import Path

from mindvl_data.pipeline import forecast
from mindvl_data.recipe import load_recipe

MARKS = ("<!-- forecast -->", "<!-- /forecast -->")
HEAD = (
    "| set | samples | tokens | packs | disk, GB | build, core hours | device hours | cost |\n"
    "|---|---|---|---|---|---|---|---|"
)


def tables(folder: Path) -> str:
    """The forecast of every set of every recipe of a kit, as a table between its marks."""
    recipes = sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("train"))
    return "\n".join([MARKS[0], HEAD, *(line for path in recipes for line in _lines(path)), MARKS[1]])


def _lines(path: Path) -> Iterator[str]:
    recipe = load_recipe(path, reads_data=False).recipe
    for made in forecast(recipe):
        total, training = made["total"], made["training"]
        counts = (total["samples"], total["tokens"], made["packs"], made["disk"] / 1e9, made["build_core_hours"])
        cells = [f"{value:,.0f}" for value in (*counts, training["device_hours"], training["cost"])]
        device = f"{cells[-2]} of {training['device']}"
        yield f"| {recipe.name}: {made['name']} | {' | '.join(cells[:-2])} | {device} | ${cells[-1]} |"


def main() -> None:
    """Write every table anew."""
    for readme in sorted(Path("recipes").glob("*/README.md")):
        text = readme.read_text()
        if MARKS[0] in text:
            pattern = re.escape(MARKS[0]) + ".*" + re.escape(MARKS[1])
            table = tables(readme.parent)
            readme.write_text(re.sub(pattern, lambda _, made=table: made, text, flags=re.S))


if __name__ == "__main__":
    main()
