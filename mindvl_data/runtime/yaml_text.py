"""YAML as people mean it, for recipes, runs and whatever else is read as YAML."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from mindvl_data.errors import UserError

BOOL = "tag:yaml.org,2002:bool"
MERGE = "tag:yaml.org,2002:merge"
# Aliases of aliases grow without bound: ten lines make a billion values of one.
MOST_VALUES = 1_000_000


class YamlError(UserError):
    """A text is not YAML, or says something in it that would be taken in another way than it was meant."""


def parse(text: str) -> Any:
    """The value of a YAML document.

    Truths are true and false, as in YAML 1.2: to YAML 1.1 `on: uid` has the key True, and `no` is no name.

    Raises:
        YamlError: It is not YAML; a key is given twice or is a list or mapping; a mapping is merged into another
            (`<<:`); or its aliases stand for more than a million values.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlError(str(error) or "nested too deeply") from error


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if key.tag == MERGE:
                raise YamlError(
                    f"line {_line(key)}: `<<` is not supported; write the keys out, or use an alias as a value"
                )
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (named, _) in zip(keys, node.value, strict=True):
            if not isinstance(key, Hashable):
                raise YamlError(f"line {_line(named)}: a key is a word, not a list or a mapping")
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise YamlError(f"the key {twice[0]!r} is given twice in the mapping that begins on line {_line(node)}")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _check_size(root: yaml.Node) -> None:
    """Raises YamlError where the aliases of a document stand for too many values, or for what they lie in."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise YamlError(f"line {_line(node)}: an alias within what it stands for has no end")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(map(size, _below(node)))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > MOST_VALUES:
        raise YamlError(f"its aliases stand for {size(root):,} values, at most {MOST_VALUES:,} are read")


def _below(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
