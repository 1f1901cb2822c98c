"""Worker processes: the same batches in the same order as without them, and an end at once when something ends."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from mindvl_data.stream import PackStream
from mindvl_train.data.batch import Batch, BatchError
from mindvl_train.data.bundle import Bundle, SharedPieces, lay_flat
from mindvl_train.data.loader import Kind, Loader
from mindvl_train.data.workers import PackDataset, StepPlan, as_it_is
from tests.mindvl_train.synthetic import LAYOUT, mixed_packs, write_data_set

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("workers") / "set", mixed_packs(7, 24))


def loader(manifest: Path, kind: Kind, packs: int = 0, micro_batch: int = 1, workers: int = 1) -> Loader:
    stream = PackStream(manifest, global_batch=2, epochs=None)
    stream.load_state_dict({"manifest": stream.manifest.id, "packs": packs})
    return Loader(stream, 2, micro_batch, LAYOUT, workers, ahead=2, kind=kind)


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def test_processes_deliver_what_threads_deliver(manifest: Path) -> None:
    found = {kind: loader(manifest, kind, packs=3, micro_batch=2, workers=2) for kind in ("threads", "processes")}
    steps = {kind: list(each.steps(5)) for kind, each in found.items()}
    assert [step.cursor for step in steps["processes"]] == [step.cursor for step in steps["threads"]]
    for one, other in zip(steps["threads"], steps["processes"], strict=True):
        assert all(equal(a, b) for a, b in zip(one.batches, other.batches, strict=True))
    assert found["processes"].stream.state_dict() == found["threads"].stream.state_dict()


class WithoutPolars(PackDataset):
    """Fails in a worker that has Polars loaded, as one forked from a process that has it would."""

    def __getitems__(self, work: object) -> Bundle:
        assert get_worker_info() is not None
        assert "polars" not in sys.modules
        return super().__getitems__(work)  # type: ignore[arg-type]


def test_a_plain_dataloader_takes_it_and_its_workers_never_load_polars(manifest: Path) -> None:
    importlib.import_module("polars")
    stream = PackStream(manifest, global_batch=2, last="drop")
    plan = StepPlan(stream, 1)
    data = DataLoader(
        WithoutPolars(stream, LAYOUT),
        batch_sampler=plan,
        collate_fn=as_it_is,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    bundles = list(data)
    assert [bundle.batch().packs for bundle in bundles] == [(i,) for i in range(6)]
    assert [(bundle.packs, bundle.ends_step) for bundle in bundles[:3]] == [(0, False), (2, True), (2, False)]
    assert not any(bundle.buffer.is_shared() for bundle in bundles), "every batch has a buffer of its own"


@pytest.mark.parametrize("workers", [0, 1])
def test_torchdatas_stateful_loader_goes_on_where_it_was_saved(manifest: Path, workers: int) -> None:
    def made() -> StatefulDataLoader:
        stream = PackStream(manifest, global_batch=2, epochs=2)
        context = "spawn" if workers else None
        return StatefulDataLoader(
            PackDataset(stream, LAYOUT),
            batch_sampler=StepPlan(stream, 1),
            collate_fn=as_it_is,
            num_workers=workers,
            multiprocessing_context=context,
        )

    whole, state = [], {}
    first = made()
    for number, bundle in enumerate(first):
        whole.append(bundle.batch().packs)
        if number == 5:
            state = first.state_dict()
    rest = made()
    rest.load_state_dict(state)
    assert len(whole) == 16
    assert [bundle.batch().packs for bundle in rest] == whole[6:]


def test_peers_of_a_rank_get_the_same_packs(manifest: Path) -> None:
    """Tensor- and context-parallel peers pass the same data-parallel rank."""
    peers = [
        Loader(PackStream(manifest, 1, 2, 4, last="pad", deal="cost"), 2, 2, LAYOUT, workers, 1, "threads")
        for workers in (1, 3)
    ]
    for one, other in zip(*(peer.steps(9) for peer in peers), strict=True):
        assert one.cursor == other.cursor
        assert all(equal(a, b) for a, b in zip(one.batches, other.batches, strict=True))


def test_shared_memory_is_written_again_only_once_a_copy_was_taken(manifest: Path) -> None:
    batches = [step.batches[0] for step in loader(manifest, "threads").steps(4)]
    pieces = SharedPieces(2)
    sent = [lay_flat(batch, 2, True, pieces) for batch in batches[:3]]
    assert len({bundle.buffer.data_ptr() for bundle in sent}) == 3, "none was taken: the third is made for once"
    first = sent[0].buffer.data_ptr()
    assert equal(sent[0].batch(), batches[0])
    again = lay_flat(batches[0], 2, True, pieces)
    assert again.buffer.data_ptr() == first
    for bundle, batch in zip([*sent, again], [*batches[:3], batches[0]], strict=True):
        assert equal(bundle.batch(), batch)
        assert equal(bundle.batch(), batch)


def test_a_bundle_is_its_batch_in_one_piece(manifest: Path) -> None:
    step = next(loader(manifest, "threads").steps(1))
    bundle = lay_flat(step.batches[0], 2, True)
    assert equal(bundle.batch(), step.batches[0])
    assert {
        tensor.untyped_storage().data_ptr() for tensor in vars(bundle.batch()).values() if torch.is_tensor(tensor)
    } == {bundle.buffer.untyped_storage().data_ptr()}


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_workers_error_is_raised_at_its_step_as_what_it_is(tmp_path: Path, kind: Kind) -> None:
    packs = mixed_packs(4, 24)
    packs[3].tokens[:] = LAYOUT.image_pad
    steps = loader(write_data_set(tmp_path / "bad", packs), kind).steps(2)
    assert next(steps).batches[0].packs == (0,)
    with pytest.raises(BatchError, match="pack 3"):
        next(steps)


LOOP = """
import sys
from mindvl_data.stream import PackStream
from mindvl_train.data.batch import BatchLayout
from mindvl_train.data.loader import Loader
if __name__ == "__main__":
    stream = PackStream(sys.argv[1], global_batch=2, epochs=None)
    layout = BatchLayout(14, 2, stream.manifest.tokenizer["special_ids"]["image_pad"])
    for number, _ in enumerate(Loader(stream, 2, 1, layout, 1, 2, sys.argv[2]).steps(10**9)):
        if number == 3:
            print("going", flush=True)
"""


def looping(manifest: Path, folder: Path, kind: Kind) -> subprocess.Popen[str]:
    """A process of its own group that takes batches for ever, and has begun to."""
    script = folder / "loop.py"
    script.write_text(LOOP)
    run = subprocess.Popen(
        [sys.executable, script, manifest, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "going\n"
    return run


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_ctrl_c_ends_the_run_and_its_workers(manifest: Path, tmp_path: Path, kind: Kind) -> None:
    run = looping(manifest, tmp_path, kind)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=20)
    assert run.returncode != 0
    assert "KeyboardInterrupt" in errors
    ended(run.pid)


def test_a_dead_worker_ends_the_run_at_once_with_the_cause(manifest: Path, tmp_path: Path) -> None:
    run = looping(manifest, tmp_path, "processes")
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    (worker,) = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(worker), signal.SIGKILL)
    _, errors = run.communicate(timeout=20)
    assert run.returncode != 0
    # Which of the two torch meets first, the signal or the broken connection, is a race.
    assert "fewer `workers`, or fewer steps `ahead`" in errors
    ended(run.pid)


def ended(group: int) -> None:
    """Nothing of a process group runs any more."""
    deadline = time.monotonic() + 10
    while running := of_group(group):
        assert time.monotonic() < deadline, running


def of_group(group: int) -> list[str]:
    """The command lines of what still runs in a process group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = status.read_text().rpartition(")")[2].split()[:3]
            line = status.with_name("cmdline").read_bytes().decode()
        except OSError:
            continue
        if int(own) == group and state not in "ZX":
            found.append(line)
    return found
