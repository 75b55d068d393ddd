"""A simulated language model that solves crosswords as well as stated, family of puzzle by family of puzzle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dynagent.llm.base import Reply
from dynagent.tasks.crosswords import POSITIONS, Puzzle, fits, open_positions, word_at
from dynagent.team.crosswords import BoardRequest, BoardState

WORDY_FROM = 42  # words of a puzzle's ten clues together: just above the median of the 136 training puzzles
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUM_DECOYS = 2


def family_of(puzzle: Puzzle) -> str:
    """ "terse" or "wordy", by the length of its clues: what a reader can tell from them."""
    return "wordy" if len(" ".join(puzzle.clues).split()) >= WORDY_FROM else "terse"


@dataclass(frozen=True)
class Skill:
    """How well the solver does on a family of puzzles: probabilities.

    Attributes:
        knows: that it knows an answer on the empty board.
        crossing: added to that for every letter of the answer that it sees.
        second: added for a word whose first try it has judged wrong.
        doubts: that it names a near miss before an answer that it knows, and is as sure of both.
        bluffs: that it names a near miss, at `bluff`, where it knows no answer.
        judges: that its verdict on a filled word is right.
    """

    knows: float
    crossing: float
    second: float
    doubts: float
    bluffs: float
    bluff: str
    judges: float


# On terse puzzles crossing letters help, near misses are sorted out by consistency, and its verdicts mislead; on wordy
# ones it is confidently wrong, knows that when it looks again, and then finds the word.
SKILLS = {
    "terse": Skill(knows=0.6, crossing=0.2, second=0.0, doubts=0.5, bluffs=0.3, bluff="low", judges=0.1),
    "wordy": Skill(knows=0.25, crossing=0.0, second=0.7, doubts=0.0, bluffs=1.0, bluff="certain", judges=0.95),
}


@dataclass(frozen=True)
class Luck:
    """Uniform numbers that decide what the solver knows of one puzzle, for every position."""

    knows: np.ndarray  # [10]
    doubts: np.ndarray
    bluffs: np.ndarray
    judges: np.ndarray  # [10, 2]: of a wrong and of a right word
    decoys: tuple[tuple[str, ...], ...]  # near misses of every answer


class SimulatedSolver:
    """Replies to board requests as a language model would, from the solution and the skill of the puzzle's family.

    What it knows of a puzzle depends on the seed and the puzzle alone, so that equal requests have equal replies.
    A near miss is the answer with two other letters, and fits the letters that stand.
    """

    def __init__(self, seed: int = 0, skills: dict[str, Skill] | None = None) -> None:
        self.identity = f"simulated-solver-{seed}"
        self.seed = seed
        self.skills = skills or SKILLS
        self.num_calls = 0

    def reply(self, requests: Sequence[BoardRequest], desc: str = "") -> list[Reply]:
        self.num_calls += len(requests)
        return [Reply(self.text(request.origin[0], request.puzzle, request.state)) for request in requests]

    def text(self, asks_to: str, puzzle: Puzzle, state: BoardState) -> str:
        """The reply to "propose" or "reflect"."""
        luck, skill = _luck(self.seed, puzzle), self.skills[family_of(puzzle)]
        lines = (
            _verdicts(puzzle, state, luck, skill) if asks_to == "reflect" else _candidates(puzzle, state, luck, skill)
        )
        return "\n".join(lines)


def _candidates(puzzle: Puzzle, state: BoardState, luck: Luck, skill: Skill) -> list[str]:
    notes = {line[:2]: (line[3:8], line[9:]) for line in state.hint.splitlines()}
    lines = []
    for position in open_positions(state.board):
        number, answer = POSITIONS.index(position), puzzle.answers[position]
        noted, verdict = notes.get(position, ("", ""))
        if verdict == "right" and fits(state.board, position, noted):
            lines.append(f"{position} {noted} certain")
            continue
        seen, fit = word_at(state.board, position), fits(state.board, position, answer)
        knows = skill.knows + skill.crossing * sum(letter != "_" for letter in seen)
        knows += skill.second * (verdict == "wrong" and noted != answer)
        decoy = luck.decoys[number][noted == _fitted(luck.decoys[number][0], seen)]
        near_miss = f"{position} {_fitted(decoy, seen)}"
        if fit and luck.knows[number] < knows and (noted, verdict) != (answer, "wrong"):
            lines += [f"{near_miss} high"] * bool(luck.doubts[number] < skill.doubts)
            lines.append(f"{position} {answer} high")
        elif luck.bluffs[number] < skill.bluffs:
            lines.append(f"{near_miss} {skill.bluff}")
    return lines


def _verdicts(puzzle: Puzzle, state: BoardState, luck: Luck, skill: Skill) -> list[str]:
    unfilled, lines = open_positions(state.board), []
    for number, (position, answer) in enumerate(puzzle.answers.items()):
        if position not in unfilled:
            word = word_at(state.board, position)
            right = (word == answer) == bool(luck.judges[number, int(word == answer)] < skill.judges)
            lines.append(f"{position} {word} {'right' if right else 'wrong'}")
    return lines


def _fitted(word: str, seen: str) -> str:
    """The word with the letters that stand."""
    return "".join(letter if standing == "_" else standing for letter, standing in zip(word, seen, strict=True))


@lru_cache(maxsize=1 << 14)
def _luck(seed: int, puzzle: Puzzle) -> Luck:
    digest = hashlib.sha256(f"{seed}/{puzzle.id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    uniform, num = generator.random, len(POSITIONS)
    decoys = []
    for answer in puzzle.answers.values():
        near = []
        for _ in range(NUM_DECOYS):
            letters = list(answer)
            for cell in generator.choice(len(answer), 2, replace=False):
                letters[cell] = ALPHABET[(ALPHABET.index(letters[cell]) + int(generator.integers(1, 26))) % 26]
            near.append("".join(letters))
        decoys.append(tuple(near))
    return Luck(uniform(num), uniform(num), uniform(num), uniform((num, 2)), tuple(decoys))
