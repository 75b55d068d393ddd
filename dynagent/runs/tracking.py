"""A run's metrics on TensorBoard, W&B, trackio or another tracker that Accelerate knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from dynagent.runs.config import RunConfig
from dynagent.runs.record import run_folder

INSTALLED_AS = {"tensorboard": "'dynagent[tensorboard]'", "comet_ml": "comet-ml"}  # others: as they are called
Rows = list[dict[str, float]]


def check_tracker(config: RunConfig) -> None:
    """Find out whether the run's tracker is there; Accelerate itself leaves out one that is not without a word.

    Raises:
        ValueError: if its package is not installed.
    """
    if config.log_with is not None and LoggerType(config.log_with) not in get_available_trackers():
        package = INSTALLED_AS.get(config.log_with, config.log_with)
        raise ValueError(
            f"log_with {config.log_with!r} needs a package that is not installed: pip install {package}, or leave "
            "log_with out."
        )


@contextlib.contextmanager
def tracking(accelerator: Accelerator, config: RunConfig, policy: str) -> Iterator[Callable[[Rows], None]]:
    """Send the metrics of one policy's training to the run's tracker, if it has one, until the end of the block.

    Each training is a run of its own there, with the run's parameters and the policy's name; a tracker that writes
    files writes them in the run's folder, in logs/<policy>.

    Yields:
        What takes new rows of the training's history: their step is the iteration.
    """

    def send(rows: Rows) -> None:
        for row in rows:
            metrics = {name: value for name, value in row.items() if name != "iteration"}
            accelerator.log(metrics, step=int(row["iteration"]))

    if config.log_with is None:
        yield send  # an accelerator of the caller's may have trackers of its own
        return
    accelerator.project_configuration.logging_dir = str(logs_folder(config) / policy)
    shown = {name: "None" if value is None else value for name, value in config.to_dict().items()}
    accelerator.init_trackers("dynagent", config=shown | {"policy": policy})
    try:
        yield send
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def logs_folder(config: RunConfig) -> Path:
    """Where trackers that write files write those of a run."""
    return run_folder(config) / "logs"
