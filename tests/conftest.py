"""What many tests stand on: the quickstart's recipe, built once a session and process."""

import shutil
from pathlib import Path

import pytest

from mindvl_data.build import BuildReport, build
from mindvl_data.recipe import load_recipe

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart"


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """The quickstart, built in this process; do not write into its folder."""
    return build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path_factory.mktemp("built") / "quickstart")


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    """A copy of the quickstart's recipe and data that a test may break."""
    return Path(shutil.copytree(QUICKSTART, tmp_path / "recipe"))
