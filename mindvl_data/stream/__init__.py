"""Packs in order for (rank, world), with the cursor as the loader's whole state.

    manifests ── course ──► position n → (manifest, epoch, place)      course.py, weights.py, schedule.py, chosen.py
                   │         the global batch at n, and its last-batch rule     cursor.py
                   │         an epoch's order: whole steps permuted             epochs.py
                   │         a batch's packs dealt to ranks by cost             dealing.py
                   │         what an epoch selects, packed anew                   selected.py
                   └─► PackStream: this rank's packs, each shard checked        pack_stream.py, reading.py

The order was fixed at build time, so position n alone says what comes next, whatever the world size, the
workers or the batch size are and were.
"""

from mindvl_data.stream.chosen import ChosenBatches
from mindvl_data.stream.course import Curriculum, Mixture, Period, Slot
from mindvl_data.stream.cursor import Last, Step, next_step
from mindvl_data.stream.dealing import deal
from mindvl_data.stream.epochs import epoch_order
from mindvl_data.stream.pack_stream import Deal, PackStream
from mindvl_data.stream.selected import SelectedEpoch, segments_of, select_epoch

__all__ = [
    "ChosenBatches",
    "Curriculum",
    "Deal",
    "Last",
    "Mixture",
    "PackStream",
    "Period",
    "SelectedEpoch",
    "Slot",
    "Step",
    "deal",
    "epoch_order",
    "next_step",
    "segments_of",
    "select_epoch",
]
