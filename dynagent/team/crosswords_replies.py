"""What a language model replies about a crossword: candidates and verdicts, and which candidates to place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from dynagent.tasks.crosswords import SIZE, fits, placed, word_at

CONFIDENCE = {"certain": 1.0, "high": 0.5, "medium": 0.2, "low": 0.1}
VERDICTS = ("right", "wrong", "impossible")
MAX_CANDIDATES = 30
MAX_REPLY = 20_000  # characters of a reply that are read

# A position, a word, and perhaps a confidence; nothing that goes on as a sentence, since that is the clue again.
_CANDIDATE = re.compile(
    r"\b([hv])([1-5])\b[^\w\n]{1,8}([^\W\d_]+)\b(?:[^\w\n]{1,6}(certain|high|medium|low)\b)?(?![^\S\n]*\w)",
    re.IGNORECASE,
)
_VERDICT = re.compile(rf"\b([hv])([1-5])\b[^\n]{{0,80}}?\b({'|'.join(VERDICTS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A word for a position, and how sure its author is: a value of `CONFIDENCE`."""

    position: str
    word: str
    confidence: float


def parse_candidates(text: str) -> list[Candidate]:
    """The candidates in a reply, in its order: lines like "h1 APPLE high", as far as they can be made out.

    A word that has not five letters from A to Z, and a position that does not exist, are passed over. A confidence
    that is missing or unknown is low. Of equal words for a position the most confident counts.
    """
    found: dict[tuple[str, str], float] = {}
    for way, number, word, confidence in _CANDIDATE.findall(text[:MAX_REPLY]):
        if len(word) == SIZE and word.isascii():
            key = (f"{way}{number}".lower(), word.upper())
            found[key] = max(found.get(key, 0.0), CONFIDENCE[confidence.lower() or "low"])
    return [Candidate(*key, confidence) for key, confidence in found.items()]


def parse_verdicts(text: str) -> dict[str, str]:
    """What a reply calls the words: position -> "right", "wrong" or "impossible"; the first verdict counts."""
    found: dict[str, str] = {}
    for way, number, verdict in _VERDICT.findall(text[:MAX_REPLY]):
        found.setdefault(f"{way}{number}".lower(), verdict.lower())
    return found


def most_confident_first(board: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that are placed from the most to the least confident, never overwriting a letter."""
    chosen = []
    for candidate in sorted(candidates, key=lambda c: -c.confidence):
        if "_" in word_at(board, candidate.position) and fits(board, candidate.position, candidate.word):
            board = placed(board, candidate.position, candidate.word)
            chosen.append(candidate)
    return chosen


def best_subset(board: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Of the (at most 30, most confident) candidates that fit, the consistent subset of highest summed confidence.

    Two rows never meet, and neither do two columns: once the rows are chosen, each column takes the best of its
    candidates that crosses them without conflict. So only the choices of one way are enumerated, that with fewer
    candidates: with 15 of 30 at most, these are (15 / 5 + 1)^5 = 1,024 choices, where subsets are 2^30.
    """
    ranked = sorted(candidates, key=lambda c: -c.confidence)
    fitting = [c for c in ranked if "_" in word_at(board, c.position) and fits(board, c.position, c.word)]
    by_way = [[c for c in fitting[:MAX_CANDIDATES] if c.position[0] == way] for way in "hv"]
    fewer, more = sorted(by_way, key=len)
    conflicts = [sum(1 << i for i, other in enumerate(fewer) if _conflict(one, other)) for one in more]
    lines: dict[str, list[int]] = {}
    for i, candidate in enumerate(fewer):
        lines.setdefault(candidate.position, []).append(i)
    most = sum({c.position: c.confidence for c in reversed(more)}.values())  # the best that `more` could add
    best, chosen = -1.0, []
    for choice in product(*([*line, -1] for line in lines.values())):
        taken = [i for i in choice if i >= 0]
        total = sum((fewer[i].confidence for i in taken), 0.0)
        if total + most <= best + 1e-9:
            continue
        mask = sum(1 << i for i in taken)
        crossing: dict[str, Candidate] = {}
        for candidate, conflict in zip(more, conflicts, strict=True):
            if not conflict & mask:
                crossing.setdefault(candidate.position, candidate)
        total += sum(candidate.confidence for candidate in crossing.values())
        if total > best + 1e-9:
            best, chosen = total, [*(fewer[i] for i in taken), *crossing.values()]
    return chosen


def _conflict(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates that cross put different letters where they meet."""
    line, crossing = int(one.position[1]) - 1, int(other.position[1]) - 1
    return one.word[crossing] != other.word[line]
