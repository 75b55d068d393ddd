"""What an agent, a question and a decision are to the rest of the library: typed protocols.

A class of one's own that has these members is an agent, a question or a decision; it inherits from nothing. The
protocols that are asked for at run time, by isinstance, say in their first line what they tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

from torch import Tensor

from dynagent.llm.base import Readable, Reply, Request
from dynagent.tasks.crosswords import Puzzle
from dynagent.team.messages import Message

# --- questions ---------------------------------------------------------------------------------------------------


class Question(Readable, Protocol):
    """A multiple-choice question; `dynagent.tasks.multiple_choice.Question` is one."""

    @property
    def text(self) -> str: ...

    @property
    def options(self) -> tuple[str, ...]: ...

    @property
    def answer(self) -> int:
        """Index of the right option; a negative number where that is not known."""

    @property
    def subject(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def area(self) -> str:
        """Of knowledge: one of stem, humanities, social_sciences and other."""


# --- agents ------------------------------------------------------------------------------------------------------


class Operation(Protocol):
    """What a node of the graph does, unless it is the decision: an agent's only step, or one of several."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> bool:
        """Whether its predecessors' messages reach it."""

    @property
    def llm(self) -> Any:
        """What replies, from `dynagent.llm.load.load_llm`; None for an operation that asks no language model."""


class Agent(Operation, Protocol):
    """An agent of one operation, which answers multiple-choice questions."""

    @property
    def group(self) -> str:
        """For figures and tables."""

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        """The index of the chosen option, or a negative number for no answer.

        Args:
            reply: of the language model; None without one.
            draw: uniform in [0, 1), the agent's own luck on this question.
        """


class AsksLLM(Agent, Protocol):
    """An agent with a language model."""

    def request(self, question: Question, messages: Sequence[Message], sample: int) -> Request:
        """What to ask the language model.

        Args:
            messages: of its predecessors, if it reads.
            sample: tells apart several draws of a written reply.
        """


def asks_llm(agent: Agent) -> TypeGuard[AsksLLM]:
    """Whether an agent has a language model, and thus a method `request`."""
    return agent.llm is not None


@runtime_checkable
class Chain(Protocol):
    """An agent of several operations, told apart by its attribute `operations`; the last one speaks to the decision."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def operations(self) -> Sequence[Operation]: ...


@runtime_checkable
class StatesIntent(Protocol):
    """An agent of which is known on which questions it means to answer rightly, told apart by `tells_truth`."""

    def tells_truth(self, question: Question) -> bool: ...


@runtime_checkable
class Described(Protocol):
    """A node with a `description`, for a policy that reads what its agents are."""

    @property
    def description(self) -> str: ...


@runtime_checkable
class BoardOperation(Operation, Protocol):
    """A step from a state of a puzzle to the next, told apart by `next_state`; see `dynagent.team.crosswords`."""

    @property
    def asks_to(self) -> str:
        """The kind of its requests."""

    def has_work(self, state: Any) -> bool:
        """Whether there is anything to ask about a state; without, `next_state` gets an empty reply."""

    def request(self, puzzle: Puzzle, state: Any) -> Request: ...

    def next_state(self, state: Any, text: str) -> Any: ...


# --- decisions ---------------------------------------------------------------------------------------------------


@runtime_checkable
class Decision(Protocol):
    """The rule by which the answers that reach it become the team's answer, told apart by `option_probs`."""

    @property
    def name(self) -> str: ...

    def option_probs(self, answers: Tensor, num_options: int) -> Tensor:
        """Probability of each option to be the outcome, [..., C], from answers [..., N]; see `MajorityVote`."""


@runtime_checkable
class ClosedFormDecision(Decision, Protocol):
    """A decision whose average over all graphs needs no enumeration, told apart by `expected_option_probs`."""

    def expected_option_probs(self, vote_probs: Tensor, answers: Tensor, num_options: int) -> Tensor:
        """`option_probs` averaged over who votes, [..., C]; see `MajorityVote`."""


@runtime_checkable
class BoardDecision(Protocol):
    """The rule that chooses one of the boards that reach it, told apart by `scores`; see `dynagent.team.crosswords`."""

    @property
    def name(self) -> str: ...

    @property
    def judge(self) -> str: ...

    def scores(self, puzzle: Puzzle, boards: Mapping[Any, int], judge: str = "") -> tuple[float, float, float]:
        """Words, letters and game of the chosen board."""
