"""One question at a time: what a trained policy makes of it, who is asked, and what the team answers.

    explorer = Explorer(policy, graph, questions)
    view = explorer.view(explorer.questions[0], threshold=0.5)
    print(view), explorer.table(view), explorer.figure([view])
    explorer.panel()  # the same with drop-downs, text boxes and sliders, for two questions side by side

All but the panel works without ipywidgets.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.core.pylabtools import print_figure
from torch import Tensor

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.policies.base import Policy
from dynagent.sampling import most_probable_dags
from dynagent.tasks.multiple_choice import LETTERS, Question
from dynagent.tasks.recorded import shown
from dynagent.team.votes import NOT_ASKED
from dynagent.viz.plots import plot_graphs

CHINESE = re.compile("[\u4e00-\u9fff]")
UNKNOWN = -1  # the right answer of a question that somebody typed
PARTS = {  # of one question in the panel, by name, and the kind of widget that each is
    "subject": "Dropdown", "pick": "Dropdown", "question": "Textarea", "ask": "Button", "message": "HTML",
    "figure": "Image", "table": "HTML",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """What a policy makes of one question.

    Attributes:
        edge_probs: [E], the policy's own.
        taken: [E] bool, the edges of the graph.
        answers: [N] option indices; negative where there is none, `NOT_ASKED` where no path leads to the decision.
        option_probs: [C], the vote's outcome; ties are split, and all are zero where nobody votes.
    """

    question: Question
    edge_probs: Tensor
    taken: Tensor
    answers: Tensor
    option_probs: Tensor

    def __str__(self) -> str:
        vote = " or ".join(LETTERS[option] for option in self.option_probs.nonzero().flatten().tolist())
        typed = "not known (asked as {0.language}: {0.subject})"
        right = typed.format(self.question) if self.question.answer == UNKNOWN else LETTERS[self.question.answer]
        count = f"{int((self.answers != NOT_ASKED).sum())} of {len(self.answers)} agents are asked"
        return f"{count}; their vote: {vote or 'none'}; the right answer: {right}."


class Explorer:
    """A policy, the team that it wires, and questions to try it on.

    Each question is read once, and each agent asked at most once about it, however often it is looked at.

    Args:
        questions: what the panel offers.
        seed: of the agents' draws.
    """

    def __init__(self, policy: Policy, graph: AgentGraph, questions: Sequence[Question], seed: int = 0) -> None:
        policy.check_team(graph)
        self.policy, self.graph, self.questions = policy, graph, questions
        self._read = lru_cache(lambda question: (policy.edge_logits_of([question]), Runner(graph, seed)))

    def view(self, question: Question, threshold: float = 0.5, sparsity: float = 0.0) -> View:
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
        found = [tensor[0, 0] for tensor in (dags.taken, outcome.answers, outcome.option_probs)]
        return View(question, logits[0].sigmoid(), *found)

    def table(self, view: View) -> pd.DataFrame:
        """A row an agent: the probability that the decision hears it, and its answer if it is asked."""
        heard = [f"{prob:.2f}" for prob in view.edge_probs[self.graph.decision_edges].tolist()]
        # The last ones by their negative indices: see `dynagent.team.replies`.
        said = [*LETTERS, "refused", "cut off", "no reply", "not asked", "no letter"]
        rows = {"P(heard)": heard, "answer": [said[answer] for answer in view.answers.tolist()]}
        return pd.DataFrame(rows, [f"{number} {node.name}" for number, node in enumerate(self.graph.nodes[:-1], 1)])

    def figure(self, views: Sequence[View]) -> plt.Figure:
        """The graphs side by side, on one scale; see `dynagent.viz.plots.plot_graphs`."""
        titles = [f"{view.question.subject} ({view.question.language})" for view in views]
        return plot_graphs(torch.stack([view.edge_probs * view.taken for view in views]), self.graph, titles)

    def panel(self) -> Any:
        """Two questions to pick or to type, two sliders, and what comes of them: a widget of ipywidgets.

        A typed question is read when its box is left or its button is pressed, a slider when it is let go. It has the
        subject and the language of the drop-down, but with a Chinese character in it the language is Chinese.

        Raises:
            ModuleNotFoundError: without ipywidgets.
        """
        try:
            import ipywidgets as widgets
        except ModuleNotFoundError:
            raise ModuleNotFoundError("The panel needs ipywidgets: pip install 'dynagent[widgets]'.") from None
        options = {"max": 1, "step": 0.05, "continuous_update": False}
        sliders = [widgets.FloatSlider(description=name, **options) for name in ("threshold", "sparsity")]
        sliders[0].value = 0.5
        sides = [self._side(widgets, sliders, place) for place in ("left", "right")]
        return widgets.VBox([widgets.HBox(sliders), widgets.HBox(sides)])

    def _side(self, widgets: Any, sliders: Sequence[Any], place: str) -> Any:
        """One question of the panel: where it is picked or typed, and what comes of it.

        Each part has a CSS class of its place and its name, "explore-left-question" for example. What is wrong with a
        question is said in the message, and the figure stays as it was.
        """
        parts = {name: getattr(widgets, kind)() for name, kind in PARTS.items()}
        subject, pick, text, ask, message, image, table = parts.values()

        def list_questions(kind: tuple[str, str]) -> list[tuple[str, Question]]:
            listed = [question for question in self.questions if (question.language, question.subject) == kind]
            return [(shown(question).splitlines()[0][:80], question) for question in listed]

        def asked() -> Question:
            if text.value == shown(pick.value):
                return pick.value
            lines = [re.sub("^Option [A-D]:", "", line.strip()).strip() for line in text.value.splitlines()]
            if len(lines := [line for line in lines if line]) <= len(LETTERS):
                raise ValueError("type a question and, on the last four lines, an option on each.")
            language: Any = "zh" if CHINESE.search(text.value) else subject.value[0]
            return Question("\n".join(lines[:-4]), tuple(lines[-4:]), UNKNOWN, subject.value[1], language)

        def show(_: Any = None) -> None:
            try:
                view = self.view(asked(), *(slider.value for slider in sliders))
            except (ValueError, OSError, FloatingPointError) as error:
                message.value = html.escape(f"Not shown: {error}", quote=False)
                return
            message.value, figure = html.escape(str(view), quote=False), self.figure([view])
            image.value, table.value = print_figure(figure), self.table(view).to_html()
            plt.close(figure)

        for name, part in parts.items():
            part.add_class(f"explore-{place}-{name}").description = "" if PARTS[name] == "HTML" else name
            part.layout.width = "auto"
        kinds = sorted({(question.language, question.subject) for question in self.questions})
        subject.options = [(": ".join(kind), kind) for kind in kinds]
        subject.index = 0 if place == "left" else len(kinds) - 1
        widgets.dlink((subject, "value"), (pick, "options"), list_questions)
        pick.index = 0
        widgets.dlink((pick, "value"), (text, "value"), shown)
        text.continuous_update, text.rows = False, 9
        for part in (text, *sliders):
            part.observe(show, "value")
        ask.on_click(show)
        show()
        return widgets.VBox([*parts.values()], layout={"width": "50%"})
