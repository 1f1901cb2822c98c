"""The keys of a run's YAML, from the models that check it: JSON Schema for editors, a table for people."""

from typing import Any

from mindvl_data.runtime.reference import tables
from mindvl_train.config.schema import TrainConfig

HEAD = """# The keys of a run's YAML

Made by `python -m mindvl_train schema --reference`; the JSON Schema for an editor by `python -m mindvl_train schema`:
begin the file with `# yaml-language-server: $schema=train.schema.json`. [training.md](training.md) explains them.
"""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a run's YAML."""
    schema = TrainConfig.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def reference() -> str:
    """Every section with its keys, their kind and default, in Markdown."""
    return tables(json_schema(), HEAD)
