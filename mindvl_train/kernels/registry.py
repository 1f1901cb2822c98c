"""Chooses an implementation for every operation, once, before the model is built.

A kernel is an entry point `<operation>.<implementation>` of the group `mindvl_train.kernels` whose object is
a `KernelSpec`. Nothing a vendor provides is imported before `KernelSpec.load` is called. A name that the
hardware cannot serve is an error, never a silent fallback; `auto` takes the implementation named like the
device (`attention.cuda` on `cuda`) where that takes numbers of the run's precision, and otherwise the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from mindvl_data.errors import UserError
from mindvl_train import plugins
from mindvl_train.kernels.segments import Segments

AUTO = "auto"
REFERENCE = "reference"


class KernelError(UserError):
    """A kernel that was asked for by name and that this hardware cannot serve."""


class Attention(Protocol):
    """See `kernels/attention.py`."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float | None = None
    ) -> Tensor: ...


class RMSNorm(Protocol):
    """See `kernels/rms_norm.py`."""

    def __call__(self, hidden: Tensor, weight: Tensor, eps: float) -> Tensor: ...


class SwiGLU(Protocol):
    """See `kernels/swiglu.py`."""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor: ...


class Rotary(Protocol):
    """See `kernels/rotary.py`."""

    def __call__(self, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor: ...


class CrossEntropy(Protocol):
    """See `kernels/cross_entropy.py`."""

    def __call__(self, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor: ...


class GroupedGEMM(Protocol):
    """See `kernels/grouped_gemm.py`."""

    def __call__(self, tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor: ...


class MoEPermute(Protocol):
    """See `kernels/moe.py`."""

    def __call__(self, tokens: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]: ...


class MoEUnpermute(Protocol):
    """See `kernels/moe.py`."""

    def __call__(self, permuted: Tensor, places: Tensor, weights: Tensor) -> Tensor: ...


class PatchEmbedding(Protocol):
    """See `kernels/patch_embedding.py`."""

    def __call__(self, patches: Tensor, weight: Tensor, kernel: tuple[int, int, int, int]) -> Tensor: ...


class DeltaRule(Protocol):
    """See `kernels/delta_rule.py`."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, segments: Segments
    ) -> Tensor: ...


class CausalConvolution(Protocol):
    """See `kernels/causal_convolution.py`."""

    def __call__(self, stream: Tensor, weight: Tensor, segments: Segments) -> Tensor: ...


class KernelConfig(BaseModel):
    """One implementation's name, or `auto`, for each operation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attention: str = AUTO
    rms_norm: str = AUTO
    swiglu: str = AUTO
    rotary: str = AUTO
    cross_entropy: str = AUTO
    grouped_gemm: str = AUTO
    moe_permute: str = AUTO
    moe_unpermute: str = AUTO
    patch_embedding: str = AUTO
    delta_rule: str = AUTO
    causal_convolution: str = AUTO


@dataclass(frozen=True)
class KernelSpec:
    """What an entry point of `mindvl_train.kernels` holds.

    Attributes:
        devices: torch device types it runs on; empty means all of them.
        load: imports what is needed and returns the function.
        precisions: in which it computes; empty means all of them.
        package: the module that has to be importable; a model that never calls the operation does without (`Missing`).
        install: what pip installs it by.
    """

    devices: frozenset[str]
    load: Callable[[], Callable[..., Any]]
    precisions: frozenset[str] = frozenset()
    package: str | None = None
    install: str | None = None

    def serves(self, device_type: str) -> bool:
        """Whether it runs on a torch device of this type (`cpu`, `cuda`, `npu`)."""
        return not self.devices or device_type in self.devices

    def computes_in(self, precision: str) -> bool:
        """Whether it takes numbers of this type (`float32`, `bfloat16`)."""
        return not self.precisions or precision in self.precisions


@dataclass(frozen=True)
class Missing:
    """Stands for a kernel whose package is not installed; a model that never calls it does without."""

    message: str

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Raises KernelError."""
        raise KernelError(self.message)


@dataclass(frozen=True)
class Kernels:
    """The operations a model calls; held by each model, never by a module.

    Attributes:
        names: the implementation chosen for every operation, for the run's log.
    """

    attention: Attention
    rms_norm: RMSNorm
    swiglu: SwiGLU
    rotary: Rotary
    cross_entropy: CrossEntropy
    grouped_gemm: GroupedGEMM
    moe_permute: MoEPermute
    moe_unpermute: MoEUnpermute
    patch_embedding: PatchEmbedding
    delta_rule: DeltaRule
    causal_convolution: CausalConvolution
    names: dict[str, str]

    def need(self, *operations: str) -> None:
        """For a module that will call these, so that a run fails before it begins.

        Raises:
            KernelError: the package of one is not installed.
        """
        for operation in operations:
            if isinstance(kernel := getattr(self, operation), Missing):
                kernel()


def resolve(config: KernelConfig, device_type: str, precision: str = "float32") -> Kernels:
    """The functions that `config` chooses on a device of this type, for activations of this precision.

    Raises:
        PluginError: an implementation that nobody registers.
        KernelError: an implementation that does not run on this device, or not in this precision.
    """
    wanted: dict[str, str] = config.model_dump()
    names = {operation: _choose(operation, name, device_type, precision) for operation, name in wanted.items()}
    functions: dict[str, Any] = {
        operation: _load(operation, name, device_type, precision) for operation, name in names.items()
    }
    return Kernels(**functions, names=names)


def _choose(operation: str, wanted: str, device_type: str, precision: str) -> str:
    if wanted != AUTO:
        return wanted
    if f"{operation}.{device_type}" not in plugins.available(plugins.KERNELS):
        return REFERENCE
    spec: KernelSpec = plugins.load(plugins.KERNELS, f"{operation}.{device_type}")
    return device_type if spec.computes_in(precision) else REFERENCE


def _load(operation: str, name: str, device_type: str, precision: str) -> Callable[..., Any]:
    spec: KernelSpec = plugins.load(plugins.KERNELS, f"{operation}.{name}")
    if not spec.serves(device_type):
        raise KernelError(
            f"kernels.{operation}: {name!r} runs on {', '.join(sorted(spec.devices))}, not on {device_type}; "
            f"choose {AUTO!r} or {REFERENCE!r}"
        )
    if not spec.computes_in(precision):
        raise KernelError(
            f"kernels.{operation}: {name!r} computes in {', '.join(sorted(spec.precisions))}, not in {precision}; "
            f"choose {AUTO!r} or {REFERENCE!r}, or another precision"
        )
    if spec.package and find_spec(spec.package) is None:
        return Missing(
            f"kernels.{operation}: {name!r} needs the package {spec.package}, which is not installed: pip "
            f"install '{spec.install}', or choose {REFERENCE!r}, which is slow"
        )
    return spec.load()
