"""What a judge is asked, as recipes say it; and the questions that are shipped.

The four metrics are those that MLM-Filter defines (Wang et al. 2024, arXiv 2403.02677) and Open-Qwen2VL selected by;
the vector of capabilities follows mmSSR (Lyu et al. 2025, arXiv 2503.13383), its nine styles are the paper's
(`config/ss.py` of its code). The other words are our own.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from mindvl_data.recipe.fields import Model, Name


class Metric(Model):
    """One thing that is asked for: a number in a range, or one of some labels."""

    prompt: str | None = None
    """The question; `{text}` is the sample's text. Only where the answer's form is `number`: one request a metric."""
    least: float = 0
    most: float = 100
    labels: tuple[str, ...] = ()
    """The labels to choose from, in the place of a number; only in the form `json`."""
    several: bool = False
    """Whether an answer may be a list of labels: the column then holds them with commas between."""

    @model_validator(mode="after")
    def _ordered(self) -> Metric:
        if self.least >= self.most:
            raise ValueError(f"least {self.least:g} is not below most {self.most:g}")
        if self.several and (not self.labels or any("," in label for label in self.labels)):
            raise ValueError("several: needs labels, none of them with a comma")
        return self


class Questions(Model):
    """A prompt, and the metrics that its answer holds."""

    prompt: str | None = None
    metrics: dict[Name, Metric] = Field({})


def _scored(question: str) -> Metric:
    return Metric(
        prompt=f"{question}\n\nText: {{text}}\n\n"
        "Answer with one whole number from 0 (worst) to 100 (best), nothing else."
    )


CAPABILITIES = {
    "activities": "recognising what people or animals do",
    "attributes": "telling colours, materials, states and other attributes",
    "charts": "reading charts, tables and diagrams",
    "comparison": "comparing several things or pictures",
    "counting": "counting",
    "culture": "knowing persons, works, places and customs",
    "emotion": "understanding feelings and social situations",
    "fine_detail": "telling apart similar kinds of things",
    "logic": "drawing conclusions in several steps",
    "mathematics": "solving mathematical problems",
    "reading": "reading text in the picture",
    "science": "knowing natural science and technology",
    "space": "understanding where things are in relation to each other",
    "time": "understanding order, causes and what comes next",
}
STYLES = (
    "multi-choice",
    "coordinate",
    "yes/no",
    "word/short-phrase",
    "short description",
    "detailed description",
    "comparison",
    "chain-of-thought",
    "specified style",
)

PRESETS = {
    "mlm_filter": Questions(
        metrics={
            "image_text_matching": _scored(
                "How well does the text fit the picture as a whole? Judge whether it says what the picture mainly "
                "shows and nothing that the picture contradicts."
            ),
            "object_detail_fulfillment": _scored(
                "How fully does the text describe the things in the picture? Judge whether their number, colour, size, "
                "position, shape and other properties are told, and told correctly."
            ),
            "caption_text_quality": _scored(
                "How well is the text written, apart from the picture? Judge grammar, vocabulary, fluency, readability "
                "and completeness."
            ),
            "semantic_understanding": _scored(
                "How much does the text tell that is worth knowing about the picture beyond what anyone sees at once: "
                "names, events, places, times, relations, context? Judge whether it adds such knowledge, correctly."
            ),
        }
    ),
    "capabilities": Questions(
        prompt="A model is to be trained on this sample: a picture and the text below.\n\nText: {text}\n\n"
        "For each capability say from 0 (not at all) to 5 (very much) how much the sample trains it:\n"
        + "\n".join(f"- {name}: {said}" for name, said in CAPABILITIES.items())
        + f"\nAnd say its `style`, a list of one or more of: {', '.join(STYLES)}.\n\n"
        "Answer with one JSON object that has each of these names as a key, nothing else.",
        metrics={
            **{name: Metric(least=0, most=5) for name in CAPABILITIES},
            "style": Metric(labels=STYLES, several=True),
        },
    ),
}


class Endpoint(Model):
    """An OpenAI-compatible endpoint: vLLM, SGLang, or a service."""

    endpoint: str = Field(pattern=r"^https?://")
    """Its base, for example http://localhost:8000/v1."""
    model: str
    api_key: str | None = Field(None, repr=False)
    """As `${NAME}` alone: taken from the environment, never written anywhere."""
    concurrency: int = Field(32, ge=1, le=1024)
    timeout: float = Field(120, gt=0)
    """Seconds without a sign of life after which a request is tried again."""
    retries: int = Field(6, ge=0)
    """How often more a request is tried that failed or stalled, each time after a longer wait."""
    unanswered: str = Field("stop", pattern="^(stop|missing)$")
    """What a sample without an answer after that means: the build stops (what was answered is kept), or a missing
    score."""
    system: str | None = None
    images: bool = True
    """Whether the pictures are sent with the text."""
    temperature: float = Field(0, ge=0)
    max_tokens: int = Field(512, ge=1)


class Asking(Endpoint):
    """What is asked of an endpoint: a shipped set of questions, or one's own."""

    preset: str | None = Field(None, pattern=f"^({'|'.join(PRESETS)})$")
    """mlm_filter (four metrics, 0 to 100) or capabilities (fourteen, 0 to 5, and the styles)."""
    prompt: str | None = None
    """The question; `{text}` is the sample's text. The answer is a JSON object with a key for each metric."""
    metrics: dict[Name, Metric] = Field({})
    """What is asked for. Without a `prompt` above them, each metric has its own and its answer is one number."""

    @model_validator(mode="after")
    def _answerable(self) -> Asking:
        if (self.preset is None) == (not self.metrics):
            raise ValueError("give either a preset or metrics")
        asked = self.questions
        for name, metric in asked.metrics.items():
            if asked.prompt is None and (metric.prompt is None or metric.labels):
                raise ValueError(f"metrics.{name}: needs a prompt and a range, or one prompt above all metrics")
            if asked.prompt is not None and metric.prompt is not None:
                raise ValueError(f"metrics.{name}.prompt: there is one prompt above all metrics already")
        return self

    @property
    def questions(self) -> Questions:
        return PRESETS[self.preset] if self.preset else Questions(prompt=self.prompt, metrics=self.metrics)
