"""The training loop, on Accelerate: the exact gradient of the expected utility, or REINFORCE on drawn graphs.

As a program, `python -m dynagent train run.json` (also under `accelerate launch`) does what the notebook does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm

from dynagent.execution.runner import ExecutesGraphs, Runner, ancestors
from dynagent.graph import AgentGraph
from dynagent.learning.checkpoint import Checkpoint, TrainingState
from dynagent.learning.config import TrainConfig
from dynagent.learning.objectives import CONSTANT_BASELINE, leave_one_out, moving_average, policy_loss, sparsity_penalty
from dynagent.llm.base import check_finite
from dynagent.policies.base import Policy
from dynagent.progress import progress
from dynagent.sampling import decided_edges, edge_noise, most_probable_dags, sample_dags

CHECKS = 20  # moments of a training at which early stopping looks at the held-out questions
LOOK_EVERY = (1, 10)  # iterations between two looks at their numbers; on a CPU, and on devices that a look waits for
METRICS = ("utility", "baseline", "num_edges", "num_reaching", "gradient_norm")
OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
# From the part of the training that is over to the learning rate's factor.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


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
    questions: Sequence[Any],
    config: TrainConfig,
    *,
    runner: ExecutesGraphs | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_rows: Callable[[list[dict[str, float]]], None] | None = None,
) -> History:
    """Train an edge policy in place.

    Args:
        policy: `StaticEdgePolicy` or `EdgePolicy`.
        questions: the training questions; each pass over them is in a new random order.
        runner: executes the graphs; a given one brings along the answers that it already knows.
        accelerator: by default one with the configured precision. With several processes each takes its share
            of every batch, and all draw the graphs that one process would draw. Each share goes through the model in
            `gradient_accumulation_steps` micro-batches, whose gradients add up to the batch's.
        checkpoint: where the main process saves the state from time to time, and from where a killed training goes
            on to the same weights, bit for bit. (In several processes whose agents read each other, the batches of
            their calls may be others than without the kill.)
        on_rows: takes the new rows of the history whenever there are some, for a tracker.

    Raises:
        ValueError: if there are no questions, or none to hold out, the processes cannot share a batch evenly or do not
            find the same checkpoint, the checkpoint is another run's, or the accelerator's precision is fp16.
        FloatingPointError: at the first logit, utility or gradient that is not finite, naming iteration and
            questions; the weights are those of the last good step.
    """
    accelerator = accelerator or Accelerator(mixed_precision=config.mixed_precision)
    _check(len(questions), config, accelerator)
    policy.check_team(graph)
    policy.note(record=None)  # what is trained again is no longer what an earlier run has judged
    runner = runner or Runner(graph, config.seed)
    held_out, order = training_plan(len(questions), config)
    visited = torch.cat([held_out, order.flatten()]).unique().tolist()
    with accelerator.main_process_first():  # the others find its calls on record
        runner.prepare([questions[i] for i in visited])
        inputs = policy.encode(questions)  # [n, ...]
    policy.to(accelerator.device).fit_standardization(inputs[visited])

    optimizer = OPTIMIZERS[config.optimizer](policy.parameter_groups(config), fused=True)
    optimizer.found_inf = torch.zeros((), device=accelerator.device)  # see `_step`
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SCHEDULES[config.schedule](step / len(order)))
    state = TrainingState(policy, optimizer, schedule, config.generator("graphs"), runner)
    if checkpoint is not None:
        _resume(state, checkpoint, len(order), accelerator)
    done, saving = len(state.rows), checkpoint if accelerator.is_main_process else None

    # Accelerate counts micro-batches on from training to training, and tells by it when processes share gradients.
    accelerator.step, accelerator.gradient_accumulation_steps = 0, config.gradient_accumulation_steps
    model = accelerator.prepare(policy)
    stride = accelerator.num_processes * config.gradient_accumulation_steps  # micro-batches of a batch
    shares = [slice(i, None, stride) for i in range(accelerator.process_index, stride, accelerator.num_processes)]
    num_drawn = 0 if config.estimator == "exact" else config.graphs_per_question  # of graphs for a question
    unseen: list[tuple[Tensor, list[str]]] = []  # see `_look`
    steps, hidden = range(done, len(order)), not accelerator.is_main_process
    bar = progress(steps, desc="training", unit="step", initial=done, total=len(order), disable=hidden)
    for iteration in bar:
        noise = edge_noise(config.batch_size, num_drawn, graph.num_edges, state.generator)
        model.zero_grad()
        ids, measured = [], []
        for share in shares:  # micro-batches of this process
            rows = order[iteration, share]
            batch = [questions[i] for i in rows.tolist()]
            with accelerator.accumulate(model):
                logits = model(inputs[rows])  # [B, E]
                loss, of_questions = _contribution(logits, batch, noise[share], state, graph, config)
                accelerator.backward(loss)
            ids += [question.id for question in batch]
            measured.append(of_questions)
        per_question = torch.cat(measured, 1).to(accelerator.device, non_blocking=True)  # [5, B]
        mean = accelerator.reduce(per_question[1:].mean(1), "mean")
        state.average = moving_average(state.average, mean[0])
        gradient_norm = get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
        numbers = torch.cat([mean, gradient_norm[None], per_question[:2].flatten()])
        _step(optimizer, numbers)
        schedule.step()

        unseen.append((numbers, ids))
        due = iteration + 1 == len(order) or (saving is not None and saving.is_due)
        if due or len(unseen) >= LOOK_EVERY[accelerator.device.type != "cpu"]:
            new = _look(unseen, len(state.rows))
            state.rows += new
            unseen.clear()
            if on_rows is not None:
                on_rows(new)
            bar.set_postfix_str(f"utility {state.rows[-1]['utility']:.2f}", refresh=False)
        if len(held_out) and (iteration + 1) % math.ceil(len(order) / CHECKS) == 0:
            _keep_the_best(state, graph, [questions[i] for i in held_out], inputs[held_out], config.cost_weight)
        if saving and due:
            saving.save(state, len(order))
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast ends with the training
    if state.best is not None:
        policy.load_state_dict(state.best[1], strict=False)
    return History(state.rows, num_resumed=done)


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
        raise ValueError(f"early_stopping {config.early_stopping} of {num_questions} questions is none: raise it.")


def _resume(state: TrainingState, checkpoint: Checkpoint, num_iterations: int, accelerator: Accelerator) -> None:
    """Bring the state to where the checkpoint has it, the same in every process."""
    checkpoint.run["number of processes"] = f"{accelerator.num_processes} on {accelerator.device.type}"
    checkpoint.load(state)
    found = accelerator.gather(torch.tensor([len(state.rows)], device=accelerator.device))  # before any is written
    if len(found.unique()) > 1:
        raise ValueError("The processes find different checkpoints: choose an output_dir that all machines share.")
    if accelerator.is_main_process and not state.rows:  # so that a second start begins where the first did
        checkpoint.save(state, num_iterations)


def _contribution(
    logits: Tensor, batch: Sequence[Any], noise: Tensor, state: TrainingState, graph: AgentGraph, config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """A micro-batch's loss, a scalar, and what is measured on each of its questions, [5, B], without gradient.

    The first row tells whether a question's logits are finite, by 0 or NaN; the others are the first four metrics.

    Args:
        logits: of the edges, [B, E].
        batch: B questions.
        noise: [B, K, 2, E] from `edge_noise`; "exact" does not look at it.
    """
    # Drawn graphs are run on the host: there everything after the logits is, which are an iteration's one wait for the
    # device. An expectation stays on the device, and the host runs ahead.
    expects = config.estimator in ("exact", "local_expectation")
    edge_logits = logits if expects else logits.cpu()
    edge_probs = edge_logits.sigmoid()
    if expects:
        others = None if config.estimator == "exact" else noise[:, :, 0][..., graph.decision_edges]
        utility = state.runner.expected_utility(batch, edge_probs, others, config.cost_weight)[:, None]  # [B, 1]
        baseline, loss = torch.zeros_like(utility), -utility.mean()
        reaching = torch.full_like(utility, len(graph.team))
    else:
        dags = sample_dags(edge_logits, graph, noise, order=config.order, decide=config.decide)
        utility = state.runner.net_utility(batch, dags.adjacency, config.cost_weight).to(edge_logits)  # [B, K]
        baseline = _baseline(config.estimator, utility, state.average)
        loss = policy_loss(dags.log_prob, utility - baseline)
        reaching = ancestors(dags.adjacency, graph.decision_node)[..., :-1].sum(-1).to(utility)
    counted = config.decide if config.penalise == "decided" else config.penalise
    penalised = decided_edges(graph, counted).to(edge_probs.device, non_blocking=True)
    into_decision = graph.decision_edges.to(edge_probs.device, non_blocking=True)
    loss = loss + config.sparsity * sparsity_penalty(edge_probs, penalised)
    metrics = (utility.mean(1), baseline.mean(1), (edge_probs * into_decision).sum(1), reaching.mean(1))
    return loss, torch.stack([(edge_logits * 0).sum(1), *metrics]).detach()


def _step(optimizer: Any, numbers: Tensor) -> None:
    """Take a step, unless a number of this iteration, or of one before, is not finite.

    To ask for that the host would have to wait for the device in every iteration. It looks every `LOOK_EVERY`
    iterations only, see `_look`, and until then a fused optimiser leaves out its steps by what stands on the device:
    `found_inf`, meant for a scaler of gradients (half precision's, which bf16 does not need). Once 1 it stays 1, so
    that the weights are those of the last good step, whenever the host comes to see it.
    """
    optimizer.found_inf = torch.maximum(optimizer.found_inf, (~numbers.isfinite().all()).float())
    optimizer.step()


def _look(unseen: Sequence[tuple[Tensor, list[str]]], first: int) -> list[dict[str, float]]:
    """The rows of the iterations from `first` on, by numbers that were left on the device, and the questions' ids.

    An iteration's numbers are its metrics, and then two for each question that are finite if its logits and utilities
    are.
    """
    rows = []
    seen = torch.stack([numbers for numbers, _ in unseen]).cpu()
    for iteration, (numbers, (_, ids)) in enumerate(zip(seen, unseen, strict=True), start=first):
        logits, utilities = numbers[len(METRICS) :].view(2, -1)
        check_finite(logits, ids, f"The logits of iteration {iteration}")
        check_finite(utilities, ids, f"The utilities of iteration {iteration}")
        check_finite(numbers[len(METRICS) - 1].expand(len(ids)), ids, f"The gradients of iteration {iteration}")
        rows.append({"iteration": iteration} | dict(zip(METRICS, numbers.tolist(), strict=False)))
    return rows


def _keep_the_best(
    state: TrainingState, graph: AgentGraph, questions: Sequence[Any], inputs: Tensor, cost_weight: float
) -> None:
    """Early stopping: keep the weights if the most probable graphs of the held-out questions never did as well."""
    with torch.no_grad():
        dags = most_probable_dags(state.policy(inputs), graph)
    score = float(state.runner.net_utility(questions, dags.adjacency, cost_weight).mean())
    if state.best is None or score > state.best[0]:
        state.best = score, {name: tensor.detach().clone() for name, tensor in state.policy.own_tensors().items()}


def training_plan(num_questions: int, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Indices of the questions held out for early stopping, and of every batch: [num_iterations, batch_size]."""
    shuffled = torch.randperm(num_questions, generator=config.generator("data"))
    held_out, rest = shuffled.tensor_split([int(config.early_stopping * num_questions)])
    return held_out, rest.sort().values[data_order(len(rest), config)]


def data_order(num_questions: int, config: TrainConfig) -> Tensor:
    """Indices of the questions of every batch: [num_iterations, batch_size], pass after pass, each shuffled."""
    generator = config.generator("data")
    steps = config.steps(num_questions)
    passes = math.ceil(steps * config.batch_size / num_questions)
    indices = torch.cat([torch.randperm(num_questions, generator=generator) for _ in range(passes)])
    return indices[: steps * config.batch_size].view(steps, config.batch_size)


def _baseline(name: str, utility: Tensor, average: Tensor | None) -> Tensor:
    """What is subtracted from the utilities: [B, K]."""
    if name == "leave_one_out":
        return leave_one_out(utility)
    if name == "moving_average" and average is not None:
        return average.to(utility).expand_as(utility)
    return torch.full_like(utility, CONSTANT_BASELINE if name == "constant_baseline" else 0.0)
