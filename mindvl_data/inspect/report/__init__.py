"""The report of a build: one HTML file for people, which opens from a mail.

    manifests, draws ──┐
    samples, ledger ───┼── warnings, funnel, mixture ──► tables in words (report.html)
    shards, pictures ──┘── histograms, samples, packs ──► data for the page's script (report.js)

Nothing of a sample is ever markup: templates escape, the script writes text nodes, and the page's own policy refuses
every request and every script but the ones it names by hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindvl_data import atomic
from mindvl_data.inspect import REPORT
from mindvl_data.inspect.report import columns, histograms, packs, samples, sets, warnings
from mindvl_data.inspect.report.pictures import Thumbnails
from mindvl_data.media import MediaReader, access_to
from mindvl_data.runtime.page import page, templates
from mindvl_data.tables.schema import EVALUATIONS_INDEX

COMPARED_NAME = "compared.html"
# In bytes of data URLs: with texts and scripts a report stays under 10 MB.
SAMPLE_PICTURES, PACK_PICTURES = 4_000_000, 2_500_000


def write_report(place: str, out: Path | None = None) -> Path:
    """Write the report of a build folder, or of one manifest; where it is.

    Args:
        place: A build folder, a manifest, the folder that holds one, or the URL of either.
        out: The file to write; by default report.html in that folder, of a URL in the working directory.

    Raises:
        UserError: There is no manifest, or it cannot be trusted.
    """
    text = report(sets.subject(place))
    if out is None:
        folder = Path() if "://" in place else Path(place)
        out = (folder if folder.is_dir() else folder.parent) / REPORT
    atomic.write_text(out, text)
    return out


def report(subject: sets.Subject) -> str:
    """The page as text."""
    data = collected(subject)
    body = templates(__name__).get_template("report.html").render(**data)
    return page(f"{subject.name}: data report", body, data, scripts("cards.js", "report.js"))


def scripts(*names: str) -> str:
    """Files of JavaScript beside this one, as one."""
    return "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names)


def collected(subject: sets.Subject) -> dict[str, Any]:
    """All that the page shows, as what JSON can hold."""
    summaries = [sets.summary(name, manifest.data) for name, manifest in subject.manifests.items()]
    funnel = sets.funnel(subject)
    with media_of(subject) as media:
        thumbnails = Thumbnails(media, SAMPLE_PICTURES)
        looked = _samples(subject, thumbnails)
        shown = {}
        for name, manifest in subject.manifests.items():
            # Each set has its share, and what the sets before it left.
            thumbnails.room = max(thumbnails.room, 0) + PACK_PICTURES // len(subject.manifests)
            shown[name] = packs.shown(manifest, thumbnails)
    return {
        "name": subject.name,
        "sources": subject.sources,
        "sets": summaries,
        "funnel": funnel,
        "steps": sets.steps(funnel),
        "warnings": warnings.warnings(subject.recipe, summaries, funnel, looked["samples"]),
        "packs": shown,
        "pictures": thumbnails.made,
        "costs": {name: packs.step_costs(manifest) for name, manifest in subject.manifests.items()},
        "engine": next(iter(subject.manifests.values())).data["engine_version"],
        **looked,
    }


def _samples(subject: sets.Subject, thumbnails: Thumbnails) -> Mapping[str, Any]:
    """Histograms and samples, where the build folder is at hand."""
    if subject.build is None:
        return {"histograms": [], "samples": [], "states": [], "share": 0.0}
    found = columns.tables(subject.build)
    share = columns.share_of(found)
    drops = columns.ledger(subject.build).filter(columns.below(share)).collect()
    compared = columns.thresholds(subject, drops)
    lines = columns.read_lines(found, share, drops, columns.drawn_lengths(subject, share), compared)
    picked = samples.chosen(lines, samples.unread(drops, lines))
    evaluations = columns.tables(subject.build, EVALUATIONS_INDEX)
    shown = samples.described(subject, [*found, *evaluations], picked, drops, thumbnails)
    return {
        "histograms": histograms.histograms(lines, compared),
        "samples": shown,
        "states": samples.states(shown),
        "share": share,
    }


def media_of(subject: sets.Subject) -> MediaReader:
    """What this user's own build noted may be opened, and nothing else: a manifest may come from anybody."""
    folder = next(iter(subject.manifests.values())).build_folder
    return MediaReader(folder, access_to(folder))
