"""The epochs of a stage that selects: from the losses in the run's folder to packs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError
from mindvl_data.random_words import words
from mindvl_data.shards import places_among
from mindvl_data.stream import SelectedEpoch, segments_of, select_epoch
from mindvl_train.loop.losses import FOLDER, LastLosses, LossLog, last_losses
from mindvl_train.loop.selections import Selection
from mindvl_train.loop.stages import Stage
from mindvl_train.parallel.host import gather_words


class SelectionError(UserError):
    """An epoch that cannot be selected; says why and what to do."""


class Planner:
    """Plans the epochs of one stage; the segments of its set are looked up once."""

    def __init__(self, stage: Stage, selection: Selection, log: LossLog) -> None:
        self._stage, self._selection, self._log = stage, selection, log
        self._segments = segments_of(stage.manifest)

    def plan(self, epoch: int, step: int, visits: int) -> SelectedEpoch:
        """The packs of an epoch that begins behind this step; a pure function of the set and the losses until then.

        Args:
            epoch: from 0.
            step: behind which it begins.
            visits: losses that the run has kept until then.

        Raises:
            SelectionError: ranks see different losses, or others than were kept.
        """
        stage, config = self._stage, self._stage.config
        assert config.selection
        assert config.until.epochs
        # All ranks have written theirs before any reads.
        gather_words("")
        last = last_losses(self._log.run_folder, step)
        if last.visits != visits:
            raise SelectionError(
                f"{self._log.run_folder / FOLDER}: has {last.visits:,} losses up to step {step}, the run has kept "
                f"{visits:,}: files were removed or altered, or do not lie where all ranks see them; put them back, or "
                "give another --out"
            )
        losses = losses_of(self._segments.ids, last)
        drawn = words(len(losses), int(stage.manifest.order["seed"]), f"{stage.manifest.id}\0select\0{epoch}")
        kept, weights = self._selection(losses, drawn, epoch, config.until.epochs, config.selection)
        if not kept.any():
            raise SelectionError(
                f"stages.{stage.name}.selection: epoch {epoch} keeps none of {len(kept):,} segments; prune less, or "
                "make fewer groups"
            )
        selected = select_epoch(stage.manifest, self._segments, kept, weights, epoch)
        if len(set(gather_words(selected.name))) > 1:
            raise SelectionError(
                f"{self._log.run_folder / FOLDER}: ranks read different losses there; the run's folder has to lie on a "
                "file system that all of them share"
            )
        return selected

    def described(self, selected: SelectedEpoch) -> dict[str, Any]:
        """For the log: packs, and segments of how many."""
        weighed = int((selected.weights != 1).sum())
        return {"packs": selected.num_packs, "segments": len(selected.pack), "of": len(self._segments)} | (
            {"weighed_up": weighed} if weighed else {}
        )


def losses_of(ids: NDArray[np.uint64], last: LastLosses) -> NDArray[np.float64]:
    """The last loss of every sample, float64 [n], in nats a target; NaN of one that was not seen.

    Args:
        ids: uint64 [n, 2].
        last: as they were written.
    """
    place = places_among(last.ids, ids)
    return np.where(place >= 0, np.append(last.mean, np.nan)[place], np.nan)
