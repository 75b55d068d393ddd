"""The training loop, on Accelerate: an objective's gradient, a step, and now and then a look at the numbers.

As a program, `python -m dynagent train run.json` (also under `accelerate launch`) does what the notebook does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm

from dynagent.execution.runner import AnyQuestion, ExecutesGraphs, Runner
from dynagent.graph import AgentGraph
from dynagent.learning.baselines import moving_average
from dynagent.learning.batch import QuestionBatch
from dynagent.learning.checkpoint import Checkpoint, TrainingState
from dynagent.learning.config import TrainConfig
from dynagent.learning.objectives import OBJECTIVES
from dynagent.learning.optimizer import OPTIMIZERS, StepGuard, make_schedule
from dynagent.learning.order import training_plan
from dynagent.learning.watch import Watch, measured
from dynagent.llm.base import Readable
from dynagent.policies.base import Policy
from dynagent.progress import progress
from dynagent.sampling import edge_noise, most_probable_dags

CHECKS = 20  # moments of a training at which early stopping looks at the held-out questions


@dataclass
class History:
    """One row of metrics an iteration, in the order of the iterations.

    utility is the batch's mean (an expectation where the estimator has it), net of what it costs, baseline what was
    subtracted on average, num_edges the expected number of edges into the decision node, num_reaching the mean number
    of agents from which a path led there (all, where all graphs count), gradient_norm that of the whole policy.

    Attributes:
        num_resumed: iterations that were found on disk, from an earlier start of the same run.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    num_resumed: int = 0

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


def train(
    policy: Policy,
    graph: AgentGraph,
    questions: Sequence[AnyQuestion],
    config: TrainConfig,
    *,
    runner: ExecutesGraphs[AnyQuestion] | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_rows: Callable[[list[dict[str, float]]], None] | None = None,
) -> History:
    """Train an edge policy in place.

    Args:
        policy: `StaticEdgePolicy` or `EdgePolicy`.
        questions: the training questions; each pass over them is in a new random order.
        runner: executes the graphs; a given one brings along the answers that it already knows. By default a
            `Runner`, for multiple-choice questions.
        accelerator: by default one with the configured precision. With several processes each takes its share
            of every batch, and all draw the graphs that one process would draw. Each share goes through the model in
            `gradient_accumulation_steps` micro-batches, whose gradients add up to the batch's.
        checkpoint: where the main process saves the state from time to time, and from where a killed training goes
            on to the same weights, bit for bit. (In several processes whose agents read each other, the batches of
            their calls may be others than without the kill.)
        on_rows: takes the new rows of the history whenever there are some, for a tracker.

    Raises:
        ValueError: if there are no questions, or none to hold out, the estimator is not for this team, the processes
            cannot share a batch evenly or do not find the same checkpoint, the checkpoint is another run's, or the
            accelerator's precision is fp16.
        FloatingPointError: at the first logit, utility or gradient that is not finite, naming iteration and
            questions; the weights are those of the last good step.
    """
    accelerator = accelerator or Accelerator(mixed_precision=config.mixed_precision)
    objective = OBJECTIVES[config.estimator]
    _check(len(questions), config, accelerator)
    objective.check_graph(graph)
    policy.check_team(graph)
    policy.note(record=None)  # what is trained again is no longer what an earlier run has judged
    runner = runner or cast(ExecutesGraphs[AnyQuestion], Runner(graph, config.seed))
    held_out, order = training_plan(len(questions), config)
    visited = torch.cat([held_out, order.flatten()]).unique().tolist()
    with accelerator.main_process_first():  # the others find its calls on record
        runner.prepare([questions[i] for i in visited])
        inputs = policy.encode(questions)  # [n, ...]
    policy.to(accelerator.device).fit_standardization(inputs[visited])

    optimizer = OPTIMIZERS[config.optimizer](policy.parameter_groups(config), fused=True)
    guard = StepGuard(optimizer, accelerator.device)
    schedule = make_schedule(optimizer, config.schedule, len(order))
    state = TrainingState(policy, optimizer, schedule, config.generator("graphs"), runner)
    if checkpoint is not None:
        checkpoint = _resume(state, checkpoint, len(order), accelerator)
    num_resumed, saving = len(state.rows), checkpoint if accelerator.is_main_process else None

    model = accelerator.prepare(policy)
    accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps  # `backward` divides by it
    shares = _micro_batches(config, accelerator)
    num_graphs = objective.num_graphs(config.graphs_per_question)
    watch = Watch(accelerator.device, first=num_resumed)
    bar = progress(
        range(num_resumed, len(order)), desc="training", unit="step", initial=num_resumed, total=len(order),
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    for iteration in bar:
        noise = edge_noise(config.batch_size, num_graphs, graph.num_edges, state.generator)  # [B, K, 2, E]
        model.zero_grad()
        ids: list[str] = []
        parts = []
        for share in shares:
            rows = order[iteration, share]
            batch = QuestionBatch([questions[i] for i in rows.tolist()], noise[share], runner, graph, config)
            is_last = share is shares[-1]
            with nullcontext() if is_last else accelerator.no_sync(model):  # gradients are shared once a step
                edge_logits = model(inputs[rows])  # [B, E]
                if not objective.stays_on_device:
                    edge_logits = edge_logits.cpu()
                contribution = objective(edge_logits, batch, state.average)
                accelerator.backward(contribution.loss)
            parts.append(measured(edge_logits, contribution, graph))
            ids += [question.id for question in batch.questions]
        per_question = torch.cat(parts, 1).to(accelerator.device, non_blocking=True)  # [5, B]
        means = accelerator.reduce(per_question[1:].mean(1), "mean")
        state.average = moving_average(state.average, means[0])
        gradient_norm = get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
        numbers = torch.cat([means, gradient_norm[None], per_question[:2].flatten()])
        guard.step(numbers)
        schedule.step()

        watch.add(numbers, ids)
        save_now = iteration + 1 == len(order) or (saving is not None and saving.is_due)
        if save_now or watch.is_due:
            new_rows = watch.look()
            state.rows += new_rows
            if on_rows is not None:
                on_rows(new_rows)
            bar.set_postfix_str(f"utility {state.rows[-1]['utility']:.2f}", refresh=False)
        if len(held_out) and (iteration + 1) % math.ceil(len(order) / CHECKS) == 0:
            _keep_the_best(state, graph, [questions[i] for i in held_out], inputs[held_out], config.cost_weight)
        if saving and save_now:
            saving.save(state, len(order))
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast ends with the training
    if state.best is not None:
        policy.load_state_dict(state.best[1], strict=False)
    return History(state.rows, num_resumed)


def _check(num_questions: int, config: TrainConfig, accelerator: Accelerator) -> None:
    """Refuse what cannot be trained, before anything is asked."""
    if not num_questions:
        raise ValueError("There are no questions to train on.")
    stride = accelerator.num_processes * config.gradient_accumulation_steps
    if config.batch_size % stride:
        raise ValueError(
            f"A batch of {config.batch_size} questions cannot be shared by {accelerator.num_processes} processes: "
            f"set batch_size to a multiple of {stride}, their number times gradient_accumulation_steps."
        )
    if accelerator.mixed_precision == "fp16":
        raise ValueError("Training does not scale its gradients, as fp16 needs: set mixed_precision to 'bf16' or 'no'.")
    if config.early_stopping and config.early_stopping * num_questions < 1:
        raise ValueError(
            f"early_stopping {config.early_stopping} of {num_questions} questions holds out none: raise it."
        )


def _micro_batches(config: TrainConfig, accelerator: Accelerator) -> list[slice]:
    """This process's share of every batch, cut into micro-batches."""
    num_processes = accelerator.num_processes
    stride = num_processes * config.gradient_accumulation_steps  # micro-batches of a batch
    return [slice(first, None, stride) for first in range(accelerator.process_index, stride, num_processes)]


def _resume(state: TrainingState, checkpoint: Checkpoint, num_iterations: int, accelerator: Accelerator) -> Checkpoint:
    """Bring the state to where the checkpoint has it, the same in every process; returns the one to save in."""
    checkpoint = checkpoint.extended(
        {"number of processes": f"{accelerator.num_processes} on {accelerator.device.type}"}
    )
    checkpoint.load(state)
    # Before any process writes one:
    num_found = accelerator.gather(torch.tensor([len(state.rows)], device=accelerator.device))
    if len(num_found.unique()) > 1:
        raise ValueError("The processes find different checkpoints: choose an output_dir that all machines share.")
    if accelerator.is_main_process and not state.rows:  # so that a second start begins where the first did
        checkpoint.save(state, num_iterations)
    return checkpoint


def _keep_the_best(
    state: TrainingState, graph: AgentGraph, questions: Sequence[Readable], inputs: Tensor, cost_weight: float
) -> None:
    """Early stopping: keep the weights if the most probable graphs of the held-out questions never did as well."""
    with torch.no_grad():
        dags = most_probable_dags(state.policy(inputs), graph)
    score = float(state.runner.net_utility(questions, dags.adjacency, cost_weight).mean())
    if state.best is None or score > state.best[0]:
        state.best = score, {name: tensor.detach().clone() for name, tensor in state.policy.own_tensors().items()}
