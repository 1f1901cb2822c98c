"""The command line: with `terminal`, the only one that prints. A path and few flags; a test freezes the set."""

from __future__ import annotations

import sys

import typer

from mindvl_data.cli import recipes, sets

# No markup: Rich's, for help texts alone, takes as long to load as all the rest.
app = typer.Typer(
    help="Recipes in, verified packed shards out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# In the order of the help.
COMMANDS = (
    recipes.build,
    recipes.check,
    recipes.plan,
    sets.show,
    sets.report,
    recipes.init,
    recipes.peek,
    sets.explain,
    sets.diff,
    sets.verify,
    sets.export,
    sets.gc,
    recipes.schema,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """The console entry point."""
    sys.exit(app())
