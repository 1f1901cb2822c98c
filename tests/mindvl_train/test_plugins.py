"""Parts are found by entry point, ours included, and chosen loudly."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

import pytest
import torch

from mindvl_data.runtime import plugins as registry
from mindvl_train import accelerators, plugins
from mindvl_train.accelerators import AcceleratorError
from mindvl_train.kernels.registry import KernelConfig, KernelError, KernelSpec, resolve


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    yield
    registry.load.cache_clear()


def test_what_we_ship_is_registered() -> None:
    shipped = {
        plugins.MODELS: {"vlm"},
        plugins.ACCELERATORS: {"cpu", "cuda", "npu"},
        plugins.PUBLISHED: {"qwen2", "qwen3", "qwen3_moe", "deepseek_v3", "qwen2_5_vl", "qwen2_5_vl_vision"},
        plugins.KERNELS: {f"{operation}.reference" for operation in KernelConfig.model_fields},
        plugins.SCHEDULES: {"constant", "cosine", "wsd"},
        plugins.LOGGERS: {"jsonl"},
    }
    for group, names in shipped.items():
        assert names <= set(plugins.available(group))
        for name in names:
            plugins.load(group, name)


def test_installed_packages_are_looked_through_once_for_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(registry, "entry_points", lambda: looks.append(1) or entry_points())
    registry._registered.cache_clear()
    assert plugins.available(plugins.MODELS)
    assert plugins.available(plugins.SCHEDULES)
    assert looks == [1]


def test_an_unknown_plugin_names_the_nearest() -> None:
    with pytest.raises(
        plugins.PluginError, match=r"no mindvl_train\.schedules plugin is called 'cosin'; did you mean 'cosine'"
    ):
        plugins.load(plugins.SCHEDULES, "cosin")


def test_two_packages_that_register_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("x", value, plugins.MODELS) for value in ("a:A", "b:B")])
    monkeypatch.setattr(registry, "_registered", lambda path: points)
    with pytest.raises(plugins.PluginError, match=r"two packages register 'x' \(a:A and b:B\)"):
        plugins.load(plugins.MODELS, "x")


def _cuda_only() -> Any:
    raise AssertionError("not to be loaded on a CPU")


CUDA_ONLY = KernelSpec(devices=frozenset({"cuda"}), load=_cuda_only)
ANYWHERE = KernelSpec(devices=frozenset(), load=lambda: torch.nn.functional.silu)


def _with_kernel(monkeypatch: pytest.MonkeyPatch, name: str, attribute: str) -> None:
    registered = [*plugins.available(plugins.KERNELS).values()]
    added = EntryPoint(name, f"{__name__}:{attribute}", plugins.KERNELS)
    monkeypatch.setattr(registry, "_registered", lambda path: EntryPoints([*registered, added]))


def test_a_kernel_that_the_hardware_cannot_serve_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_kernel(monkeypatch, "attention.varlen", "CUDA_ONLY")
    with pytest.raises(KernelError, match=r"kernels.attention: 'varlen' runs on cuda, not on cpu"):
        resolve(KernelConfig(attention="varlen"), "cpu")


def test_auto_takes_the_kernel_named_like_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_kernel(monkeypatch, "swiglu.cpu", "ANYWHERE")
    kernels = resolve(KernelConfig(), "cpu")
    assert (kernels.names["swiglu"], kernels.names["attention"]) == ("cpu", "reference")
    assert kernels.swiglu is torch.nn.functional.silu


def test_accelerators() -> None:
    assert accelerators.choose("cpu").backend == "gloo"
    assert accelerators.choose("auto").device_type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(plugins.PluginError, match=r"no mindvl_train\.accelerators plugin is called 'tpu'"):
        accelerators.choose("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_accelerator_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AcceleratorError, match="'cuda' is not available on this machine"):
        accelerators.choose("cuda")
