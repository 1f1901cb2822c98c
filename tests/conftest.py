"""What many tests stand on: the quickstart's recipe, built once a session and process."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe

# Tests run in a process a core: torch with a thread a core in each of them waits ten times longer than it computes.
# Read when torch is first imported, which no test module does before this file.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is found out about a tokenizer is kept from one run of the tests to the next, apart from the user's own.
os.environ.setdefault("MINDVL_CACHE", str(Path(tempfile.gettempdir()) / f"mindvl-tests-{os.getuid()}"))

# open_clip brings torchvision, and transformers takes another way through pictures where it finds it: one that does not
# import beside a torch for the CPU, and is not the published one. `torchvision_fits` shows it to the tests of CLIP.
sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart"


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """The quickstart, built in this process; do not write into its folder."""
    return build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path_factory.mktemp("built") / "quickstart")


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    """A copy of the quickstart's recipe and data that a test may break."""
    return Path(shutil.copytree(QUICKSTART, tmp_path / "recipe"))
