"""The entry-point groups of what can be exchanged in the trainer; see `mindvl_data.runtime.plugins`.

A third-party package names its object under one of our groups and is found without a line of ours changing. What we
ship is registered the same way, in `pyproject.toml`.
"""

from mindvl_data.runtime.plugins import PluginError, available, load

MODELS = "mindvl_train.models"
ACCELERATORS = "mindvl_train.accelerators"
KERNELS = "mindvl_train.kernels"
SCHEDULES = "mindvl_train.schedules"
SELECTIONS = "mindvl_train.selections"
CONTROLLERS = "mindvl_train.controllers"
LOGGERS = "mindvl_train.loggers"
CALLBACKS = "mindvl_train.callbacks"
PUBLISHED = "mindvl_train.published"

__all__ = [
    "ACCELERATORS",
    "CALLBACKS",
    "KERNELS",
    "LOGGERS",
    "MODELS",
    "PUBLISHED",
    "SCHEDULES",
    "PluginError",
    "available",
    "load",
]
