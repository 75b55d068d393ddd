"""One question at a time: what a trained policy makes of it, who is asked, and what the team answers.

    explorer = Explorer.from_run("results/runs/...")
    view = explorer.view(explorer.questions[0], threshold=0.5)
    print(view), explorer.table(view), explorer.figure([view])
    explorer.panel()  # the same with drop-downs, text boxes and sliders, for two questions side by side

All but the panel works without ipywidgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.core.pylabtools import print_figure
from torch import Tensor

from dynagent.config import RunConfig, resolve_path
from dynagent.execution import Runner
from dynagent.experiment import prepare
from dynagent.graph import AgentGraph
from dynagent.plots import plot_graphs
from dynagent.policy import Policy
from dynagent.results import RunRecord
from dynagent.sampling import most_probable_dags
from dynagent.tasks.multiple_choice import LETTERS, Question
from dynagent.tasks.recorded import shown

UNKNOWN = -1  # the right answer of a question that somebody typed
PARTS = {  # of one question in the panel, by name, and the kind of widget that each is
    "subject": "Dropdown", "pick": "Dropdown", "question": "Textarea", "options": "Textarea", "answer": "Dropdown",
    "ask": "Button", "message": "Label", "figure": "Image", "table": "HTML",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """What a policy makes of one question.

    Attributes:
        edge_probs: [E], the policy's own.
        taken: [E] bool, the edges of the graph.
        asked: [N] bool, the agents from which a path leads to the decision.
        answers: [N] option indices; negative where there is none.
        option_probs: [C], the vote's outcome; ties are split, and all are zero where nobody votes.
    """

    question: Any
    edge_probs: Tensor
    taken: Tensor
    asked: Tensor
    answers: Tensor
    option_probs: Tensor

    def __str__(self) -> str:
        vote = " or ".join(LETTERS[option] for option in self.option_probs.nonzero().flatten().tolist())
        right = "not known" if self.question.answer == UNKNOWN else LETTERS[self.question.answer]
        count = f"{int(self.asked.sum())} of {len(self.asked)} agents are asked"
        return f"{count}. Their vote: {vote or 'none'}. The right answer: {right}."


class Explorer:
    """A policy, the team that it wires, and questions to try it on.

    Each question is read once, and each agent asked at most once about it, however often it is looked at.

    Args:
        questions: what the panel offers.
        seed: of the agents' draws.
    """

    def __init__(self, policy: Policy, graph: AgentGraph, questions: Sequence[Any], seed: int = 0) -> None:
        policy.check_team(graph)
        self.graph, self.questions = graph, questions
        self._read = lru_cache(lambda question: (policy.edge_logits_of([question]), Runner(graph, seed)))

    @classmethod
    def from_run(cls, folder: str | Path, **changes: Any) -> Explorer:
        """The policy of a saved run, with its team and its held-out questions.

        Args:
            folder: holds `policy` and `record.json`; a relative path starts at the project's root.
            changes: parameters of `RunConfig` to be used instead of the run's, where they are not None: another
                `dataset`, or another `data_source`, "recordings" for example.
        """
        path = resolve_path(folder)
        if not (path / "record.json").exists():
            raise FileNotFoundError(f"{path} holds no record.json: give the folder of a saved run.")
        given = {name: value for name, value in changes.items() if value is not None}
        parameters = RunRecord.load(path / "record.json").parameters | given
        experiment = prepare(RunConfig.from_parameters(parameters))
        policy: Any = type(experiment.policy).from_pretrained(path / "policy")
        policy.reader = experiment.reader
        return cls(policy, experiment.graph, experiment.eval_questions, experiment.config.seed)

    def typed(self, text: str, options: Sequence[str], language: Any, subject: str, answer: int = UNKNOWN) -> Question:
        """A question of one's own.

        Args:
            options: four.
            language, subject: what the specialists among the agents are told; the policy reads the text alone.
            answer: index of the right option, if it is known.
        """
        words = [text.strip(), *(option.strip() for option in options)]
        if len(words) != 1 + len(LETTERS) or not all(words):
            raise ValueError("Type a question and four options, one a line, none of them empty.")
        return Question(words[0], tuple(words[1:]), answer, subject, language)

    def view(self, question: Any, threshold: float = 0.5, sparsity: float = 0.0) -> View:
        """The graph of a question, the answers along it, and the vote.

        Args:
            threshold: the graph has the edges of at least this probability; one half gives the most probable graph. A
                higher threshold never adds an edge.
            sparsity: the share of the edges that count which is left out, the least probable ones, whatever their
                probability. It is no retraining: a policy that was trained at a price for edges (the parameter
                `sparsity` of a run) may choose others.
        """
        if not (0 <= threshold <= 1 and 0 <= sparsity <= 1):
            raise ValueError(f"Threshold and sparsity lie between 0 and 1; they are {threshold} and {sparsity}.")
        logits, runner = self._read(question)  # [1, E]
        ranked = logits[0].masked_fill(~self.graph.effective, -math.inf).argsort(descending=True, stable=True)
        left_out = ranked[round((1 - sparsity) * int(self.graph.effective.sum())) :]
        shifted = (logits - torch.tensor(threshold).logit()).index_fill(1, left_out, -math.inf)
        dags = most_probable_dags(shifted, self.graph)
        outcome = runner.run([question], dags.adjacency)
        found = (dags.taken, outcome.asked, outcome.answers, outcome.option_probs)
        return View(question, logits[0].sigmoid(), *(tensor[0, 0] for tensor in found))

    def table(self, view: View) -> pd.DataFrame:
        """A row an agent: the probability that the decision hears it, whether it is asked, and its answer."""
        heard = view.edge_probs[self.graph.decision_edges].tolist()
        rows = zip(heard, view.asked.tolist(), view.answers.tolist(), strict=True)
        cells = [(f"{p:.2f}", ["no", "yes"][asked], [*LETTERS, "none"][max(said, -1)]) for p, asked, said in rows]
        names = [f"{number} {node.name}" for number, node in enumerate(self.graph.nodes[:-1], 1)]
        return pd.DataFrame(cells, names, ["P(heard)", "asked", "answer"])

    def figure(self, views: Sequence[View]) -> plt.Figure:
        """The graphs side by side, on one scale; see `dynagent.plots.plot_graphs`."""
        titles = [f"{view.question.subject} ({view.question.language})" for view in views]
        return plot_graphs(torch.stack([view.edge_probs * view.taken for view in views]), self.graph, titles)

    def panel(self) -> Any:
        """Two questions to pick or to type, two sliders, and what comes of them: a widget of ipywidgets.

        A typed question is read when its button is pressed, a slider when it is let go. What is wrong with a question
        is said below it, and the figure stays as it was.

        Raises:
            ModuleNotFoundError: without ipywidgets.
        """
        try:
            import ipywidgets as widgets
        except ModuleNotFoundError:
            raise ModuleNotFoundError("The panel needs ipywidgets: pip install 'dynagent[widgets]'.") from None
        sliders = [
            widgets.FloatSlider(start, min=0, max=1, step=0.05, description=name, continuous_update=False)
            for name, start in (("threshold", 0.5), ("sparsity", 0.0))
        ]
        sides = [self._side(widgets, sliders, place) for place in ("left", "right")]
        return widgets.VBox([widgets.HBox(sliders), widgets.HBox(sides)])

    def _side(self, widgets: Any, sliders: Sequence[Any], place: str) -> Any:
        """One question of the panel: where it is picked or typed, and what comes of it.

        Each part has a CSS class of its place and its name, "explore-left-question" for example.
        """
        parts = {name: getattr(widgets, kind)() for name, kind in PARTS.items()}
        subject, pick, text, options, answer, ask, message, image, table = parts.values()
        answer.options = [("not known", UNKNOWN), *((letter, index) for index, letter in enumerate(LETTERS))]
        subjects = sorted({(question.language, question.subject) for question in self.questions})
        chosen: list[Any] = []  # the question that is shown

        def show(make: Callable[[], Any]) -> None:
            try:
                question = make()
                view = self.view(question, *(slider.value for slider in sliders))
            except (ValueError, OSError, FloatingPointError) as error:
                message.value = f"Not shown: {error}"
                return
            chosen[:], message.value, figure = [question], str(view), self.figure([view])
            image.value, table.value = print_figure(figure), self.table(view).to_html()
            plt.close(figure)

        def typed() -> Question:
            language, about = subject.value
            return self.typed(text.value, options.value.strip().splitlines(), language, about, answer.value)

        def take(change: Any) -> None:
            text.value = shown(change.new).partition("\nOption A: ")[0]
            options.value, answer.value = "\n".join(change.new.options), change.new.answer
            show(lambda: change.new)

        def list_questions(change: Any) -> None:
            listed = [question for question in self.questions if (question.language, question.subject) == change.new]
            pick.options = [(shown(question)[:80], question) for question in listed]

        subject.observe(list_questions, "value")
        pick.observe(take, "value")
        ask.on_click(lambda _: show(typed))
        for slider in sliders:
            slider.observe(lambda _: show(lambda: chosen[0]), "value")
        for name, part in parts.items():
            part.add_class(f"explore-{place}-{name}").description = name
        subject.options = [(": ".join(kind), kind) for kind in subjects[:: 1 if place == "left" else -1]]
        return widgets.VBox([*parts.values()])
