"""What a report is about: the packed sets of a build folder, or one set, and the folder where their samples lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindvl_data.errors import UserError
from mindvl_data.manifest import FILE_NAME, Manifest, read_manifest
from mindvl_data.runtime.mirror import looked_at
from mindvl_data.shards import Patience, patiently, store_of
from mindvl_data.tables.schema import SAMPLES_INDEX

# Steps of the funnel that each set goes through by itself.
OF_ONE_SET = ("fit", "draw")
COUNTS = ("samples", "tokens", "loss_tokens", "vision_tokens")


@dataclass(frozen=True)
class Subject:
    """manifests: of every packed set, by name. build: the folder with samples and ledger; None where there is none."""

    name: str
    manifests: Mapping[str, Manifest]
    build: Path | None

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe as it was written; of a set kept under another recipe, that of the first set."""
        first = next(iter(self.manifests.values()))
        return dict(first.data["recipe"])

    @property
    def sources(self) -> list[str]:
        """Every source of any of the sets, in the order of the recipe."""
        used = [name for m in self.manifests.values() for name in m.data["sources"]]
        written = [name for name in self.recipe.get("sources", {}) if name in used]
        return list(dict.fromkeys([*written, *used]))

    def boxes(self, source: str) -> Mapping[str, Any] | None:
        """What the recipe says of boxes in a source's texts."""
        found: Mapping[str, Any] = self.recipe.get("sources", {}).get(source, {})
        return found.get("boxes")

    def kind(self, source: str) -> str:
        found = (m.data["sources"].get(source) for m in self.manifests.values())
        return next((str(one["kind"]) for one in found if one), "")


def subject(place: str) -> Subject:
    """What lies at a path or URL: a manifest, its folder, or a build folder. Raises UserError where none does."""
    path = Path(place)
    if "://" in place and not place.endswith(FILE_NAME) and not _is_set(place):
        return _build_in_store(place.rstrip("/"))
    if "://" in place or path.is_file() or (path / FILE_NAME).is_file():
        manifest = read_manifest(place)
        build = None if manifest.store else manifest.path.absolute().parent.parent
        return Subject(set_name(manifest), {set_name(manifest): manifest}, build if _has_samples(build) else None)
    manifests = [read_manifest(file) for file in sorted(path.glob(f"*/{FILE_NAME}"))]
    if not manifests:
        raise UserError(f"{place}: holds no {FILE_NAME}, nor does any folder in it; give a build folder or a manifest")
    order = [f"{one}-" for one in manifests[0].data["recipe"].get("stages", {})]
    manifests.sort(key=lambda m: next((i for i, one in enumerate(order) if set_name(m).startswith(one)), len(order)))
    named = {m.path.parent.name: m for m in manifests}
    build = path.absolute()
    return Subject(manifests[0].data["recipe"].get("name") or build.name, named, build if _has_samples(build) else None)


def _is_set(url: str) -> bool:
    fs, path = store_of(url.rstrip("/"))
    return bool(patiently(lambda: fs.exists(f"{path}/{FILE_NAME}"), url, Patience()))


def _build_in_store(url: str) -> Subject:
    """A build folder in a store: its tables are brought here, its shards are read there."""
    build = looked_at(url)
    sets = sorted(file.parent.name for file in build.glob(f"*/{FILE_NAME}"))
    if not sets:
        raise UserError(f"{url}: holds no {FILE_NAME}, nor does any folder in it; give a build folder or a manifest")
    manifests = {name: read_manifest(f"{url}/{name}") for name in sets}
    first = manifests[sets[0]].data["recipe"]
    return Subject(first.get("name") or url, manifests, build if _has_samples(build) else None)


def set_name(manifest: Manifest) -> str:
    """A packed set's name, as the build calls its folder."""
    return f"{manifest.stage}-{manifest.seq_len}"


def _has_samples(build: Path | None) -> bool:
    return build is not None and (build / "samples" / SAMPLES_INDEX).is_file()


def funnel(subject: Subject) -> list[dict[str, Any]]:
    """Every step and source: in, out, reasons. What sets share once; a step of one set alone says which."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    several = len(subject.manifests) > 1
    for name, manifest in subject.manifests.items():
        for line in manifest.data["funnel"]:
            own = line["step"] in OF_ONE_SET
            step = f"{line['step']} ({name})" if several and own else line["step"]
            lines.setdefault((step, line["source"]), {**line, "step": step})
    return list(lines.values())


def mixture(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line a source: target and actual shares and counts, and the epochs of it."""
    total = data["mixture"]["total"]
    lines = []
    for source, line in data["mixture"]["sources"].items():
        target, actual = line["target"], line["actual"]
        lines.append(
            {
                "source": source,
                "target": target["share"],
                "actual": actual["share"],
                "epochs": actual.get("epochs"),
                "counts": {key: actual.get(key, 0) for key in COUNTS},
                "targets": {key: target.get(key) for key in COUNTS},
                "shares": {key: actual.get(key, 0) / (total[key] or 1) for key in COUNTS},
            }
        )
    return lines


def summary(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """A set in numbers, for its line of the table and for the scripts."""
    packing, order = data["packing"], data["order"]
    return {
        "name": name,
        "id": data["id"],
        "stage": data["stage"],
        "seq_len": data["seq_len"],
        **{key: data["mixture"]["total"][key] for key in COUNTS},
        "packs": packing["packs"],
        "min_packs": packing["minimum_packs"],
        "fill": packing["fill"],
        "step": order["step"],
        "order": order["rule"],
        "balance": packing["cost_balance"][order["rule"]],
        "by": data["mixture"]["by"],
        "mixture": mixture(data),
    }


def steps(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first step of a funnel and those after it that let anything go, without those of one set alone."""
    named = list(dict.fromkeys(line["step"] for line in lines))
    lost = {line["step"] for line in lines if line["in"] != line["out"]}
    shared = [step for step in named if step.partition(" (")[0] not in OF_ONE_SET]
    return [step for step in shared if step in lost or step == named[0]]
