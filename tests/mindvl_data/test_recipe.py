"""The recipe: every key is checked, and an error names its YAML path and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.recipe import RecipeError, json_schema, load_recipe, reference
from mindvl_data.recipe.fields import number_of

QUICKSTART = Path("recipes/quickstart/recipe.yaml")


def test_the_quickstart_is_read_as_written() -> None:
    loaded = load_recipe(QUICKSTART)
    recipe = loaded.recipe
    assert recipe.stages["sft"].seq_len == (2048, 4096)
    assert recipe.stages["warmup"].seq_len == (2048,)
    assert recipe.stages["warmup"].budget.tokens == 80_000
    assert recipe.sources["captions"].path == ("data/captions-*.tar",)
    assert loaded.folder == QUICKSTART.parent.resolve()
    assert recipe.model_config["frozen"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokeniser=x", r"tokeniser: there is no such key; did you mean 'tokenizer'\?"),
        ("stages.warmup.budgt=3", r"stages\.warmup\.budgt: there is no such key; did you mean 'budget'\?"),
        ("stages.warmup.budget.token=3", r"stages\.warmup\.budget\.token: .*did you mean 'tokens'"),
        ("sources.vqa.formt=x", r"sources\.vqa\.formt: .*did you mean 'format'"),
        ("filters.0.were=x", r"filters\.0\.were: .*did you mean 'where'"),
        ("resolution.zzz=1", r"resolution\.zzz: there is no such key; there are: deviation, max_pixels, mean, merge"),
        ("stages.warmup.mixture.captions=0.6", r"stages\.warmup\.mixture: the shares sum to 0\.9, not to 1"),
        ("stages.warmup.budget.epochs=1", r"warmup\.budget: give exactly one of tokens, packs, sam"),
        ("stages.warmup.seq_len=[2048, 2048]", r"stages\.warmup: a sequence length is given twice"),
        ("stages.warmup.seq_len=many", r"stages\.warmup\.seq_len\.0: Input should be a valid integer"),
        ("resolution.min_pixels=9999999", r"resolution: min_pixels 9999999 is above max_pixels"),
        ("stages.warmup.resolution.max_pixels=9", r"stages\.warmup\.resolution: min_pixels 3136 is above max_pixels 9"),
        ("stages.warmup.max_repeats=2", r"stages\.warmup\.max_repeats: is called max_epochs now"),
        (
            "balance=[{name: a, by: source, share: 0.5, temperature: 1}]",
            r"balance\.0\.temperature: is called exponent now",
        ),
        (
            "processor=qwen3vl",
            r"processor: no mindvl_data.processors plugin is called 'qwen3vl'; did you mean",
        ),
        ("resolution.patch=16", r"resolution\.patch: 16 is not that of the processor qwen2-vl \(14\): name another"),
        ("media=zip", r"media: Input should be 'embed' or 'reference'"),
        (
            "stages.warmup.mixture={captoins: 1.0}",
            r"stages\.warmup\.mixture: there is no source 'captoins'; did you mean",
        ),
        (
            "stages.warmup.mixture={documents: 0.5, g: {share: 0.5, vqa: 0.6, text: 0.5}}",
            r"mixture\.g: the shares sum to 1\.1",
        ),
        (
            "stages.warmup.mixture={g: {vqa: 1.0}, text: 1.0}",
            r"mixture: the shares sum to 1, which leaves nothing for g",
        ),
        (
            "stages.warmup.mixture={vqa: {epochs: 1}, text: 0.5}",
            r"mixture: vqa: give epochs to every source of the group",
        ),
        (
            "stages.warmup.mixture={vqa: {epochs: 1, most: 2}}",
            r"mixture\.vqa\.most: there is no such key; there are: allocate, epo",
        ),
        (
            "stages.warmup.mixture={temperature: 2, vqa: {epochs: 1}}",
            r"mixture: vqa: beside a temperature stand sources",
        ),
        (
            "stages.warmup.mixture={vqa: 0.5, g: {share: 0.5, vqa: 1}}",
            r"warmup: mixture: the source 'vqa' stands in it twice",
        ),
        ("stages.warmup.budget=null", r"stages\.warmup: budget: say how much to draw, or give every source"),
        ("sources.share={format: text, path: a, kind: b}", r"sources\.share: the name means something in a mixture"),
        ("filters.0.sources=[nobody]", r"filters\.0\.sources: there is no source 'nobody'"),
        ("filters.1.name=large enough", r"filters: two have the same name"),
        ("name=a/b", r"name: String should match pattern"),
    ],
)
def test_a_wrong_key_or_value_is_named_by_its_path(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(QUICKSTART, [override])


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ("{g: {vqa: 1.0}, h: {text: 1.0}}", r"mixture: g and h: only one group may leave its sh"),
        ("{tempreature: 2, vqa: 1}", r"warmup\.mixture: the shares sum to 3, not to 1"),
        ("{tempreature: 0.1, vqa: 0.9}", r"no source 'tempreature'; did you mean 'temperature'"),
        ("{vqa: -1}", r"stages\.warmup\.mixture\.vqa: Input should be greater than 0"),
        ("{g: {share: 1}}", r"stages\.warmup\.mixture\.g: a group without a source"),
        ("{allocate: {score: words, tau: 0}, vqa: 1}", r"mixture\.allocate\.tau: Input should be greater than 0"),
        ("{allocate: {score: {vqa: 1}, tau: 1}, vqa: 1, text: 1}", r"allocate\.score: gives no number for text"),
        ("{allocate: {score: words, tau: 1, caps: {vqb: 0.5}}, vqa: 1}", r"allocate\.caps: the group has no 'vqb'"),
        ("{allocate: {score: words, tau: 1, caps: 0.4}, vqa: 1, text: 1}", r"caps: they sum to 0.8, so that the sh"),
        ("{allocate: {score: words, tau: 1}, temperature: 1, vqa: 1}", r"give either temperature or allocate"),
        ("{allocate: {score: words, tau: 1}, g: {vqa: 1}}", r"g: beside allocate stand sources with a number"),
        ("{share: 0.5, vqa: 1}", r"stages\.warmup: mixture\.share: the whole mixture has no"),
    ],
)
def test_a_wrong_mixture_is_named_by_its_path(mixture: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(QUICKSTART, [f"stages.warmup.mixture={mixture}"])


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(QUICKSTART, ["sedd=1", "stages.sft.overlong=maybe"])
    assert "sedd" in str(error.value)
    assert "stages.sft.overlong" in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [("seed", "expected path.to.key=value"), ("seed.deeper=1", "'seed' is a value, not a mapping")],
)
def test_an_override_that_reaches_nowhere_is_named(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(QUICKSTART, [override])


def test_overrides_reach_mappings_and_lists() -> None:
    loaded = load_recipe(QUICKSTART, ["filters.0.where=width > 3", "stages.sft.budget={tokens: 5}"])
    assert loaded.recipe.filters[0].where == "width > 3"
    assert loaded.recipe.stages["sft"].budget.tokens == 5
    assert loaded.hash != load_recipe(QUICKSTART).hash


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a recipe is a mapping"),
        ("- 1", "a recipe is a mapping"),
        ("a: [", "not readable as YAML"),
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' is given twice in the mapping that begins on line 2"),
        ("a: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("1: 2", "Keys should be strings"),
        ("\x00", "not readable as YAML"),
    ],
)
def test_what_is_no_recipe_is_refused_with_one_message(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(write(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_variables_resolve_for_use_and_stay_as_written_for_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text())
    raw["sources"]["text"]["path"] = "${WHERE}/text.jsonl"
    raw["seed"] = "${SEED}"
    path = write(tmp_path, yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"sources\.text\.path: the environment variable WHERE is not set"):
        load_recipe(path)
    monkeypatch.setenv("WHERE", "/secret/place")
    monkeypatch.setenv("SEED", "12")
    loaded = load_recipe(path)
    assert loaded.recipe.sources["text"].path == ("/secret/place/text.jsonl",)
    assert loaded.recipe.seed == 12
    assert "secret" not in json.dumps(loaded.raw)


def test_the_table_of_keys_in_the_docs_is_the_one_of_the_code() -> None:
    table = Path("docs/recipe-yaml.md").read_text()
    assert table == reference() + "\n", "python -m mindvl_data schema --reference > docs/recipe-yaml.md"


def test_the_schema_in_the_repository_is_the_one_of_the_code() -> None:
    written = json.loads(Path("recipes/recipe.schema.json").read_text())
    assert written == json_schema(), "python -m mindvl_data schema > recipes/recipe.schema.json"


def test_the_schema_describes_every_key_of_a_recipe() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Source"]["properties"]["format"]["description"]
    lengths = schema["$defs"]["Stage"]["properties"]["seq_len"]["anyOf"]
    assert {option["type"] for option in lengths} == {"integer", "array"}


def test_words_that_an_older_yaml_takes_for_truths_are_words(tmp_path: Path) -> None:
    text = QUICKSTART.read_text().replace("name: quickstart", "name: on")
    text += 'scores:\n  clip: {by: joined, path: "*.parquet", on: uid, columns: {yes: no}}\n'
    (tmp_path / "recipe.yaml").write_text(text)
    loaded = load_recipe(tmp_path / "recipe.yaml", ["sources.text.licence=off", "scores.clip.on=key"])
    assert loaded.recipe.name == "on"
    assert loaded.raw["scores"]["clip"] == {"by": "joined", "path": "*.parquet", "on": "key", "columns": {"yes": "no"}}
    assert loaded.recipe.sources["text"].licence == "off"
    with pytest.raises(RecipeError, match="licence"):
        load_recipe(tmp_path / "recipe.yaml", ["sources.text.licence=true"])


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e6", 10**6),
        ("2B", 2 * 10**9),
        ("4k", 4000),
        ("1.5M", 1_500_000),
        ("50GB", 50 * 10**9),
        ("4Ki", 4096),
        ("7", 7),
    ],
)
def test_numbers_are_taken_as_people_write_them(written: str, number: int) -> None:
    assert number_of(written) == number
    sets = [f"stages.sft.budget={{tokens: {written}}}", "sources.captions.max_bad=5e-1", "shard_bytes=64MB"]
    recipe = load_recipe(QUICKSTART, sets).recipe
    assert recipe.stages["sft"].budget.tokens == number
    assert (recipe.sources["captions"].max_bad, recipe.shard_bytes) == (0.5, 64_000_000)
    with pytest.raises(RecipeError, match=r"stages\.sft\.budget\.tokens: Input should be a valid integer"):
        load_recipe(QUICKSTART, ["stages.sft.budget={tokens: 2Q}"])


@given(st.integers(0, 10**15))
def test_a_number_in_digits_is_itself(number: int) -> None:
    assert number_of(str(number)) == number_of(f"{number:,}") == number_of(f"{number:_}") == number
