"""What the released code really does, as switches, and one seed of a training with some of them on.

Everything is measured within the published method (REINFORCE on one drawn graph a question, 200 batches of 4, the raw
last hidden state, Adam at 1e-4, and 0.1 for the static policy); the switches alone also on top of our default recipe.
In every setting a stated share of the agents' replies is unparsable, since the last switch is about those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynagent.agents import Truthful
from dynagent.config import RunConfig
from dynagent.decision import MajorityVote
from dynagent.evaluate import evaluate, truthful_ratio
from dynagent.execution import Runner
from dynagent.experiment import STATIC_LEARNING_RATE, Experiment, again, prepare
from dynagent.graph import AgentGraph
from dynagent.llm import Reply
from dynagent.tasks.recorded import RecordedQuestion
from dynagent.train import train
from experiments.header import HEADER_ID, read_header
from experiments.study import Outcome
from experiments.table2_cells import ADVERSARIAL, PAPER_SPARSITY, QWEN, RECIPES, SPECIALIZED
from experiments.unparsable import VoidedVote, expected_accuracy, garbled

RATE = 0.05  # of unparsable replies, in every setting of the switches
DYNAMIC_GRAPHS = {"paper": "sampled", "default": "most_probable"}  # as each recipe is meant to be used
NUM_HEARD = tuple(range(1, 9))
NUM_HEADERS = 50  # of the 570 mixed training questions
TASKS: dict[str, dict[str, Any]] = {
    "adversarial": ADVERSARIAL,
    "specialized": SPECIALIZED,
    "edge reduction": SPECIALIZED | {"sparsity": PAPER_SPARSITY},
}


@dataclass(frozen=True)
class Switch:
    """One thing that the released code does.

    Attributes:
        on, off: parameters of a run, within the published method.
        on_default: the parameters on top of our default recipe, or None where the switch means nothing there.
        tasks: where it can be thrown.
        in_training: whether it changes the training, or only how a trained policy is evaluated.
    """

    on: dict[str, Any]
    off: dict[str, Any]
    on_default: dict[str, Any] | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    in_training: bool = True


MIXED = ("specialized", "edge reduction")
# In the order and with the numbers of the list of what the released code does.
SWITCHES = {
    "1 edges between agents are decided": Switch({"decide": "all"}, {"decide": "effective"}),
    "2 evaluation all Chinese": Switch({}, {}, {}, MIXED, in_training=False),
    "3 header rows as questions": Switch({}, {}, {}, MIXED),
    "4 static evaluation draws graphs": Switch({}, {}, {}, in_training=False),
    "5 adversaries always say A": Switch(
        {"adversary": "constant"}, {"adversary": "asked"}, {"adversary": "constant"}, ("adversarial",)
    ),
    "6 random head instead of p = 0.5": Switch(
        {"head_init": "default"}, {"head_init": "zero"}, {"head_init": "default"}
    ),
    "7 no baseline": Switch(
        {"estimator": "reinforce"}, {"estimator": "moving_average"},
        {"estimator": "reinforce", "graphs_per_question": 1},
    ),
    "8 fixed visiting order": Switch({"order": "fixed"}, {"order": "random"}),
    "9 penalty on edges without effect": Switch(
        {"penalise": "all"}, {"penalise": "effective"}, None, ("edge reduction",)
    ),
    "10 one bad reply voids the vote": Switch({}, {}, {}),
}  # fmt: skip
CHINESE, HEADERS, DRAWN, VOIDED = (list(SWITCHES)[number - 1] for number in (2, 3, 4, 10))


@dataclass(frozen=True)
class Setting:
    """One training of a dynamic and a static policy.

    Attributes:
        switches: those that are on and change the training, in the order of `SWITCHES`.
        rate: of unparsable replies.
    """

    task: str
    recipe: str = "paper"
    switches: tuple[str, ...] = ()
    rate: float = RATE


def of_task(task: str, recipe: str = "paper") -> list[str]:
    """The switches that can be thrown in a task."""
    return [name for name, switch in SWITCHES.items()
            if task in switch.tasks and (recipe == "paper" or switch.on_default is not None)]  # fmt: skip


def setting(task: str, recipe: str, on: Sequence[str], rate: float = RATE) -> Setting:
    """The training behind a state of the switches."""
    return Setting(task, recipe, tuple(n for n in SWITCHES if n in on and SWITCHES[n].in_training), rate)


def parameters(of: Setting) -> dict[str, Any]:
    """A run's parameters in a setting."""
    found = QWEN | RECIPES[of.recipe] | {"adversary": "asked"} | TASKS[of.task]
    for name, switch in SWITCHES.items():
        if of.recipe == "paper":
            found |= switch.on if name in of.switches else switch.off
        elif name in of.switches:
            found |= switch.on_default or {}
    return found


class AnswersToHeaders:
    """Recorded answers, and any letter at random to a header row, of which no letter is right."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def reply(self, requests: Sequence[Any], desc: str = "") -> list[Reply]:
        asked = [request for request in requests if not request.question.id.startswith(HEADER_ID)]
        replies = iter(self._llm.reply(asked, desc))
        guess = Reply(log_probs=(0.0,) * 4, option_tokens=(1,) * 4)
        return [guess if r.question.id.startswith(HEADER_ID) else next(replies) for r in requests]


class ReadingOfHeaders:
    """Recorded features, those of the header row among them."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._header = read_header(reader.identity)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, questions: Sequence[Any], readout: str = "mean_hidden") -> Tensor:
        """Features of the questions: [B, H] float32."""
        known = iter(self._reader.read([q for q in questions if not q.id.startswith(HEADER_ID)] or [], readout))
        return torch.stack([self._header[readout] if q.id.startswith(HEADER_ID) else next(known) for q in questions])


@lru_cache(maxsize=2)
def loaded(team: str) -> Experiment:
    """What all settings of a team have in common: "adversarial" or "specialized"."""
    experiment = prepare(RunConfig.from_parameters(parameters(Setting(team, "default"))))
    agents = [replace(agent, llm=AnswersToHeaders(agent.llm)) for agent in experiment.graph.team]
    experiment.policy.reader = ReadingOfHeaders(experiment.reader)  # type: ignore[assignment]
    return replace(experiment, graph=AgentGraph(agents, experiment.graph.decision))


def team_of(task: str) -> str:
    """The team that `loaded` has for a task."""
    return "adversarial" if task == "adversarial" else "specialized"


def with_headers(questions: Any, seed: int) -> Any:
    """The mixed training questions, 50 of the Chinese ones replaced by header rows whose answer is no letter."""
    chinese = [place for place, question in enumerate(questions) if question.language == "zh"]
    chosen = np.random.default_rng(seed).choice(chinese, NUM_HEADERS, replace=False)
    items = list(questions)
    for number, place in enumerate(sorted(chosen.tolist())):
        subject = items[place].subject
        items[place] = RecordedQuestion(
            id=f"{HEADER_ID}{number}", answer=4, subject=subject, language="zh", options=(*"ABCD", "Answer")
        )
    return replace(questions, items=tuple(items))


def build(of: Setting, seed: int) -> Experiment:
    """A setting's parts, untrained."""
    known = parameters(of) | {"seed": seed}
    experiment = again(loaded(team_of(of.task)), **known)
    decision = VoidedVote() if VOIDED in of.switches else MajorityVote()
    graph = AgentGraph(garbled(experiment.graph.team, of.rate), decision)
    questions = experiment.train_questions
    if HEADERS in of.switches:
        questions = with_headers(questions, seed)
    return replace(experiment, graph=graph, runner=Runner(graph, seed), train_questions=questions)


def measure(of: Setting, seed: int) -> Outcome:
    """Train both policies of a setting and evaluate them: the dynamic one on drawn graphs, the static one both ways.

    By the default recipe the dynamic policy is evaluated on its most probable graphs.
    """
    dynamic, outcome = build(of, seed), Outcome()
    static = again_static(dynamic)
    runner, questions = dynamic.runner, dynamic.eval_questions
    kinds = {"static": ("sampled", "most_probable"), "dynamic": (DYNAMIC_GRAPHS[of.recipe],)}
    for name, experiment in (("dynamic", dynamic), ("static", static)):
        config, policy = experiment.config, experiment.policy
        train(policy, runner.graph, dynamic.train_questions, config, runner=runner)
        for kind in kinds[name]:
            evaluation = evaluate(
                policy, runner.graph, questions, graphs=kind, order=config.order, decide=config.decide, runner=runner,
                seed=config.stream("evaluation"),
            )  # fmt: skip
            outcome.scores[f"{name}, {kind}"] = evaluation.scores.numpy()
        probs = policy.edge_logits_of(questions).sigmoid()
        into = probs[:, runner.graph.decision_edges]
        outcome.values[f"{name}: expected edges"] = float(into.sum(1).mean())
        outcome.values[f"{name}: ratio"] = truthful_ratio(probs, runner.graph, questions)
        outcome.values[f"{name}: deviation over questions"] = float(into.std(0, correction=0).mean())
    return outcome


def again_static(dynamic: Experiment) -> Experiment:
    """The static policy beside a dynamic one, on the same answers."""
    static = again(dynamic, edge_policy="static", learning_rate=STATIC_LEARNING_RATE)
    return replace(static, graph=dynamic.graph, runner=dynamic.runner)


@dataclass(frozen=True)
class Heard:
    """The first so many of eight truthful agents, all of them heard."""

    rate: float
    rule: str


def measure_heard(of: Heard, seed: int) -> Outcome:
    """Expected accuracy of the vote of 1 to 8 truthful agents on the questions of the adversarial team."""
    experiment = loaded("adversarial")
    llm = experiment.graph.team[0].llm
    graph = AgentGraph([Truthful(llm, mode="letter")] * NUM_HEARD[-1], MajorityVote())
    questions, outcome = experiment.eval_questions, Outcome()
    full = graph.full().expand(len(questions), 1, graph.num_nodes, graph.num_nodes)
    answers = Runner(graph, seed).run(questions, full).answers[:, 0]  # [n, 8]
    right = torch.tensor([question.answer for question in questions])
    for number in NUM_HEARD:
        outcome.scores[str(number)] = expected_accuracy(answers[:, :number], right, of.rate, of.rule).numpy()
    return outcome
