"""A build in which everything that a stranger writes is an attack on whoever looks at it."""

import json
from pathlib import Path

from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.mindvl_data.crawl import crawl, picture

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
CLOSING = "</script></textarea></style>--><svg onload=window.hacked=1> {{ 7 * 7 }} javascript:window.hacked=1"
URL = 'http://stranger.example/pixel.png"><a href="javascript:window.hacked=1">look</a>'
FILE = "crawl <img src=x onerror=window.hacked=1>.parquet"


def hostile(folder: Path) -> BuildReport:
    """Duplicates, an evaluation's picture, filters on fields and scores; each text, key and file name is an attack."""
    long = "a boat lies at the quay while three gulls argue over bread"
    rows = [
        {"caption": f"{SCRIPT} {long} 0", "image": picture(0, 160, 160), "clip": 0.4, "note": SCRIPT},
        {"caption": f"{CLOSING} {long} 1", "image": picture(0, 160, 160), "clip": 0.3, "note": CLOSING},
        {"caption": f"{URL} {long} 2", "image": picture(2, 160, 160), "clip": 0.35, "note": URL},
        {"caption": f"{SCRIPT} {long} 3", "image": picture(3, 160, 120), "clip": 0.05, "note": SCRIPT},
        {"caption": "海边停着一条小船，三只海鸥在争面包", "image": picture(4, 160, 120), "clip": 0.5, "note": ""},
        *({"caption": f"{long} {i}", "image": picture(i, 160, 130), "clip": 0.3, "note": ""} for i in range(5, 12)),
    ]
    crawl(folder / FILE, rows)
    crawl(folder / "exam.parquet", [{"caption": SCRIPT, "image": picture(2, 160, 160)}], 90)
    raw = {
        "name": "hostile",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"crawl": {"format": "captions", "path": "crawl*.parquet", "kind": "caption", "licence": SCRIPT}},
        "evaluations": {"exam": {"format": "captions", "path": "exam.parquet", "kind": "evaluation"}},
        "filters": [
            {"name": f"clip {SCRIPT}", "where": "clip >= 0.1 and note <> 'no'"},
            {"name": "words enough", "where": "spaced_words >= 3"},
        ],
        "decontaminate": [{"by": "image"}],
        "dedup": [{"by": "image"}],
        "stages": {"only": {"seq_len": 512, "budget": {"epochs": 1}, "mixture": {"crawl": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return build(load_recipe(folder / "recipe.yaml"), folder / "out")
