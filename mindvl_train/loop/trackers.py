"""Loggers that bring a run's numbers to an experiment tracker: wandb, mlflow, trackio, by the name of each.

A tracker cannot take back what a killed run logged behind its last checkpoint. So every start is a run of its own
there, called `<run>-<first step>`, in the group (or experiment) of the run. Where it goes is the tracker's own
business, by its environment: WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID and so on.
"""

import importlib
import os
from pathlib import Path
from typing import Any

from mindvl_train.loop.metrics import LoggerError, Record, numbers


class _Tracker:
    """What all have in common: a module that is loaded when the run begins."""

    module = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _loaded(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise LoggerError(
                f"loggers: {self.module} is not installed: pip install 'mindvl[{self.module}]'"
            ) from error

    def _name(self, step: int) -> str:
        return f"{self._folder.name}-{max(0, step)}"


class WandbLogger(_Tracker):
    """Weights & Biases: curves over the optimizer's steps; the project is WANDB_PROJECT, or mindvl."""

    module = "wandb"

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        wandb = self._loaded()
        settings = wandb.Settings(init_timeout=60, console="off")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mindvl"),
            name=self._name(step),
            group=self._folder.name,
            dir=str(self._folder),
            settings=settings,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, record: Record) -> None:
        self._run.log({"step": record["step"], **numbers(record)})

    def close(self) -> None:
        self._run.finish()


class MlflowLogger(_Tracker):
    """MLflow: the experiment is called as the run's folder; by default under `mlruns` where you stand."""

    module = "mlflow"

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        mlflow = self._loaded()
        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(self._folder.name)
        experiment = found.experiment_id if found else self._client.create_experiment(self._folder.name)
        self._run = self._client.create_run(experiment, run_name=self._name(step)).info.run_id

    def log(self, record: Record) -> None:
        for name, value in numbers(record).items():
            # Its file store makes folders of slashes, and no curve may be another's folder.
            named = name.replace("/", ".").replace("*", "all")
            self._client.log_metric(self._run, named, value, step=record["step"])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class TrackioLogger(_Tracker):
    """Trackio: local, under TRACKIO_DIR, or a Space by its own settings."""

    module = "trackio"

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        trackio = self._loaded()
        self._run = trackio.init(project="mindvl", name=self._name(step), group=self._folder.name)

    def log(self, record: Record) -> None:
        self._run.log(dict(numbers(record)), step=record["step"])

    def close(self) -> None:
        self._run.finish()
