"""Agents that solve crosswords: chains of operations from board to board, and the decision among the boards.

An operation asks its language model about one board and makes the next board of the reply. A reply that cannot be
read is an outcome: it changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from dynagent.llm.base import Chat, Request
from dynagent.tasks import crosswords as game
from dynagent.tasks.crosswords import Puzzle, placed, word_at
from dynagent.team.crosswords_replies import (
    Candidate,
    best_subset,
    most_confident_first,
    parse_candidates,
    parse_verdicts,
)

Judge = Literal["oracle", "self_judged"]
JUDGES: tuple[str, ...] = get_args(Judge)
MAX_NEW_TOKENS = 100
MAX_PLAN = 300  # characters
TIE = 1e-9  # confidences that differ by less are equal
# What each kind of step asks for: the role, and one example that shows the form of a reply.
TEMPLATES: dict[str, Chat] = {
    "propose": (
        ("system", "You solve crosswords. Every answer is one word of five letters. For each open clue write its name, "
                   "a word, and how sure you are: certain, high, medium or low."),
        ("user", "Open:\nh1 A fruit\nh4 A stream; it flows: R____\nv2 To start: B_G__"),
        ("assistant", "h1 APPLE high\nh4 RIVER certain\nv2 BEGIN certain"),
    ),
    "reflect": (
        ("system", "You check crosswords. For each filled word write its name, the word, and whether it is right, "
                   "wrong or impossible. End with one line that plans what to do next."),
        ("user", "Filled:\nh1 A fruit: APPLE\nh4 A stream; it flows: RIGHT"),
        ("assistant", "h1 APPLE right\nh4 RIGHT wrong\nPlan: keep APPLE, find a stream for h4."),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BoardState:
    """What an operation tells the next one: the board, notes of an earlier attempt, and the confidence it placed."""

    board: str = game.EMPTY
    hint: str = ""
    confidence: float = 0.0


@dataclass(frozen=True)
class BoardRequest(Request):
    """A request about one state of a puzzle. Its origin names them by hashes, so that no clue is on record."""

    puzzle: Any = field(default=None, kw_only=True, repr=False, compare=False)
    state: Any = field(default=None, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True)
class Operation:
    """A step of an agent: a request about a state, and the state that the reply leads to."""

    llm: Any = field(repr=False, compare=False)
    max_new_tokens: int = MAX_NEW_TOKENS
    name: ClassVar[str]
    asks_to: ClassVar[str]
    reads: ClassVar[bool] = True

    def has_work(self, state: BoardState) -> bool:
        """Whether there is anything to ask; without, `next_state` gets an empty reply."""
        raise NotImplementedError

    def next_state(self, state: BoardState, text: str) -> BoardState:
        raise NotImplementedError

    def request(self, puzzle: Puzzle, state: BoardState) -> BoardRequest:
        """What to ask about a state that `has_work`. Both kinds of proposing steps ask alike."""
        user = self._ask(puzzle, state)
        chat: Chat = (*TEMPLATES[self.asks_to], ("user", user))
        origin = (self.asks_to, "crosswords", _digest(repr(chat)), puzzle.id, f"{state.board}/{_digest(state.hint)}")
        return BoardRequest(chat, max_new_tokens=self.max_new_tokens, origin=origin, puzzle=puzzle, state=state)

    def _ask(self, puzzle: Puzzle, state: BoardState) -> str:
        """The clues with what stands on the board; to a proposing step also the notes."""
        unfilled, parts = game.open_positions(state.board), []
        for title, filled in (("Filled", True), ("Open", False)):
            lines = [
                f"{position} {clue}: {word_at(state.board, position)}".removesuffix(": _____")
                for position, clue in zip(game.POSITIONS, puzzle.clues, strict=True)
                if (position not in unfilled) is filled
            ]
            if lines and (filled or self.asks_to == "propose"):
                parts.append("\n".join([f"{title}:", *lines]))
        if state.hint and self.asks_to == "propose":
            parts.append(f"Notes of an earlier attempt:\n{state.hint}")
        return "\n\n".join(parts)


@dataclass(frozen=True)
class Propose(Operation):
    """Ask for candidates for the open positions and place some of them."""

    asks_to: ClassVar[str] = "propose"

    def choose(self, board: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates that are placed, in this order."""
        raise NotImplementedError

    def has_work(self, state: BoardState) -> bool:
        return "_" in state.board

    def next_state(self, state: BoardState, text: str) -> BoardState:
        chosen, board = self.choose(state.board, parse_candidates(text)), state.board
        for candidate in chosen:
            board = placed(board, candidate.position, candidate.word)
        return BoardState(board, state.hint, state.confidence + sum(c.confidence for c in chosen))


@dataclass(frozen=True)
class GreedyStep(Propose):
    """Place the candidates from the most to the least confident, never overwriting."""

    name: ClassVar[str] = "Greedy"

    def choose(self, board: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        return most_confident_first(board, candidates)


@dataclass(frozen=True)
class BruteForceStep(Propose):
    """Place the consistent subset of the candidates with the highest summed confidence."""

    name: ClassVar[str] = "BruteForce"

    def choose(self, board: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        return best_subset(board, candidates)


@dataclass(frozen=True)
class ReflectStep(Operation):
    """Have the filled words called right, wrong or impossible, with a plan; go on from the empty board with that."""

    name: ClassVar[str] = "Reflect"
    asks_to: ClassVar[str] = "reflect"

    def has_work(self, state: BoardState) -> bool:
        return len(game.open_positions(state.board)) < len(game.POSITIONS)

    def next_state(self, state: BoardState, text: str) -> BoardState:
        unfilled, verdicts = game.open_positions(state.board), parse_verdicts(text)
        notes = [
            f"{position} {word_at(state.board, position)} {verdicts[position]}"
            for position in game.POSITIONS
            if position in verdicts and position not in unfilled
        ]
        _, _, plan = text.partition("Plan:")
        if plan.strip():
            notes.append(f"Plan: {' '.join(plan[:MAX_PLAN].split())}")
        return BoardState(hint="\n".join(notes))


@dataclass(frozen=True)
class Solver:
    """An agent whose operations follow each other; the last one speaks to the decision."""

    name: str
    group: str
    operations: tuple[Operation, ...]
    llm: Any = field(repr=False, compare=False)


def brute_force(llm: Any, **options: Any) -> Solver:
    """Three brute-force steps, each from where the one before stopped."""
    return Solver("BruteForce", "brute force", (BruteForceStep(llm, **options),) * 3, llm)


def reflection(llm: Any, **options: Any) -> Solver:
    """Two greedy steps, a reflection on what they made, and two greedy steps from the empty board with its notes."""
    greedy = GreedyStep(llm, **options)
    return Solver("Reflection", "reflection", (greedy, greedy, ReflectStep(llm, **options), greedy, greedy), llm)


@dataclass(frozen=True)
class ReturnAll:
    """The decision: one of the boards that reach it.

    Args:
        judge: "oracle" takes the best by the true solution, as released: no team can do that when it is used.
            "self_judged" takes the board on which its authors placed the most confidence, summed over words.
    """

    judge: str = "self_judged"
    name: ClassVar[str] = "ReturnAll"

    def __post_init__(self) -> None:
        if self.judge not in JUDGES:
            raise ValueError(f"A judge is one of {', '.join(JUDGES)}, not {self.judge!r}.")

    def scores(self, puzzle: Puzzle, boards: Mapping[BoardState, int], judge: str = "") -> tuple[float, float, float]:
        """Words, letters and game of the chosen board; where the judge has a tie, the mean over the tied ones.

        Args:
            boards: the states that reach the decision, each with how often it does.
            judge: by default its own.

        >>> puzzle = Puzzle(("a clue",) * 10, "ABCDE" * 5)
        >>> boards = {BoardState(placed(game.EMPTY, "h1", "ABCDE"), confidence=0.1): 1, BoardState(confidence=0.5): 1}
        >>> ReturnAll().scores(puzzle, boards, "oracle"), ReturnAll().scores(puzzle, boards, "self_judged")
        ((0.1, 0.2, 0.0), (0.0, 0.0, 0.0))
        """
        found = {state: game.score(state.board, puzzle) for state in boards}
        if (judge or self.judge) == "oracle":
            return max(found.values())
        most = max(state.confidence for state in boards) - TIE
        tied = {state: times for state, times in boards.items() if state.confidence >= most}
        total = sum(tied.values())
        words, letters, games = (sum(found[s][i] * times for s, times in tied.items()) / total for i in range(3))
        return words, letters, games


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
