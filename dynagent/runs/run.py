"""All of a run: train the configured policy and the static one beside it, evaluate, save."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from dynagent.evaluation.evaluate import compare_wirings
from dynagent.learning.loop import History, train
from dynagent.policies.base import Policy
from dynagent.runs.build import build_policy, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment
from dynagent.runs.preflight import estimate
from dynagent.runs.record import run_folder
from dynagent.runs.saving import checkpoint_of, finished_run, save_run
from dynagent.runs.tracking import check_tracker, logs_folder, tracking

log = logging.getLogger(__name__)

STATIC_LEARNING_RATE = 0.1  # the paper's, for the static policy beside a dynamic one


def train_all(
    experiment: Experiment, accelerator: Accelerator | None = None, save: bool = False
) -> tuple[dict[str, Policy], History]:
    """Train the configured policy, and beside it a static one on the same questions and the same answers.

    Args:
        accelerator: by default that of `make_accelerator`.
        save: keep checkpoints in the run's folder. A run that was killed goes on from there, and one that has finished
            is only loaded.

    Returns:
        The policies "learned", "static" (only beside a dynamic one) and "untrained", and the history of the first.
    """
    config, graph, runner = experiment.config, experiment.graph, experiment.runner
    accelerator = accelerator or make_accelerator(config)
    untrained = build_policy(config.replace(tune="head"), graph, reader=experiment.reader)  # the same logits
    untrained.fit_standardization(untrained.encode(experiment.train_questions))

    def fit(name: str, policy: Policy, config: RunConfig) -> History:
        options: dict[str, Any] = {"runner": runner, "accelerator": accelerator}
        options["checkpoint"] = checkpoint_of(experiment, name) if save else None
        with tracking(accelerator, experiment.config, name) as send:
            return train(policy, graph, experiment.train_questions, config, on_rows=send, **options)

    history = fit("learned", experiment.policy, config)
    policies = {"learned": experiment.policy}
    if config.edge_policy == "dynamic":
        static_config = config.replace(edge_policy="static", tune="head", learning_rate=STATIC_LEARNING_RATE)
        policies["static"] = static = build_policy(static_config, graph)
        fit("static", static, static_config)
    return policies | {"untrained": untrained}, history


def make_accelerator(config: RunConfig) -> Accelerator:
    """The processes of a run, its precision and its tracker.

    Raises:
        ValueError: if the tracker is not installed.
    """
    check_tracker(config)
    # The others wait while the main process asks the agents, which may take hours.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    on_cpu = not torch.accelerator.is_available()  # Accelerate has to be told, or each of several would train alone
    place = ProjectConfiguration(logging_dir=str(logs_folder(config)))
    return Accelerator(
        cpu=on_cpu, mixed_precision=config.mixed_precision, log_with=config.log_with, project_config=place,
        kwargs_handlers=[patience],
    )  # fmt: skip


def run_experiment(config: RunConfig, command: str) -> Path | None:
    """All of a run: prepare, print an estimate of its costs, train, evaluate, save.

    Under `accelerate launch` and `notebook_launcher` every process trains; the main one evaluates, saves, and returns
    the run's folder.
    """
    # A fork has to make a thread pool of its own before threads that load weights do it at the same moment.
    torch.set_num_threads(torch.get_num_threads())
    accelerator = make_accelerator(config)
    experiment = prepare(config)
    folder = run_folder(config) if accelerator.is_main_process else None
    if finished_run(experiment):
        log.warning("This run is finished and on record: nothing is changed (resume: false begins anew).")
        accelerator.end_training()
        return folder
    if folder is not None:
        sys.stdout.write(f"{estimate(experiment)}\n")
        sys.stdout.flush()  # a run may take hours
    policies, history = train_all(experiment, accelerator, save=True)
    if folder is not None:
        results = compare_wirings(policies, experiment.eval_questions, experiment.runner, config)
        save_run(experiment, history, results, command)
    accelerator.end_training()
    return folder
