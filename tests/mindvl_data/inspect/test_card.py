"""The data card says what the manifest says, and nothing of the machine."""

from pathlib import Path

from mindvl_data.inspect.card import card
from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import BuildReport


def test_every_set_has_its_card(quickstart: BuildReport) -> None:
    for stage in quickstart.stages:
        manifest = read_manifest(quickstart.out / stage.name)
        text = (quickstart.out / stage.name / "CARD.md").read_text()
        assert text == card(manifest.data)
        assert manifest.id in text
        assert all(shard.sha256 in text for shard in manifest.shards)
        for name, source in manifest.data["sources"].items():
            assert f"| {name} | {source['format']} | {source['kind']} | {source['licence'] or 'not stated'} |" in text
        assert str(Path.cwd()) not in text


def test_names_do_not_break_the_table(quickstart: BuildReport) -> None:
    data = dict(read_manifest(quickstart.out / "warmup-2048").data)
    source = {"format": "text", "kind": "a|b\nc", "licence": None, "files": {"path": "sources.parquet", "count": 2000}}
    text = card(data | {"sources": {"many": source}})
    assert "| many | text | a\\|b c | not stated | 2,000 | sources.parquet |" in text
