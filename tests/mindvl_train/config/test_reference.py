"""The schema and the table of keys are those of the code, and the schema takes the YAML that the code takes."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from mindvl_train.config.reference import json_schema, reference

ROOT = Path(__file__).parents[3]
RUNS = sorted(ROOT.glob("recipes/**/train*.yaml"))


def test_the_schema_and_the_reference_in_the_repository_are_those_of_the_code() -> None:
    kept = json.loads((ROOT / "recipes" / "train.schema.json").read_text())
    assert kept == json_schema(), "python -m mindvl_train schema > recipes/train.schema.json"
    table = (ROOT / "docs" / "train-yaml.md").read_text()
    assert table == reference() + "\n", "python -m mindvl_train schema --reference > docs/train-yaml.md"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_run_that_is_shipped_is_valid_by_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


def test_a_wrong_key_is_not() -> None:
    run = yaml.safe_load(RUNS[0].read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(run | {"stagess": {}}, json_schema())


def test_every_key_of_the_file_is_in_the_table() -> None:
    lines = reference().splitlines()
    for key in json_schema()["properties"]:
        assert any(line.startswith(f"| `{key}` |") for line in lines), key
