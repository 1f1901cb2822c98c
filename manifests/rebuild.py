"""Write the quickstart's manifests anew: `python manifests/rebuild.py`. A change of theirs is a decision."""

import shutil
import tempfile
from pathlib import Path

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe

ROOT = Path(__file__).parent


def main() -> None:
    """Build the quickstart into a temporary folder and keep its manifests, without shards."""
    with tempfile.TemporaryDirectory() as folder:
        report = build(load_recipe(ROOT.parent / "recipes" / "quickstart" / "recipe.yaml"), Path(folder))
        for stage in report.stages:
            kept = ROOT / "quickstart" / stage.name
            kept.mkdir(parents=True, exist_ok=True)
            for name in ("manifest.json", "manifest.json.sha256"):
                shutil.copy(Path(folder) / stage.name / name, kept / name)


if __name__ == "__main__":
    main()
