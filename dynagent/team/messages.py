"""What one agent hears of another."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase

from dynagent.team.replies import parse_reason

MOST_CHARACTERS = 300  # of a reason, as others read it


@dataclass(frozen=True, slots=True)
class Message:
    """What a predecessor has said: its name, the letter of its answer, its reason where it gave one."""

    sender: str
    answer: str
    reason: str = ""

    @classmethod
    def of(cls, sender: str, answer: int, reply: str) -> Message:
        """The message that an answer and the reply that it was parsed from make."""
        letter = ascii_uppercase[answer] if answer >= 0 else "nothing"
        return cls(sender, letter, parse_reason(reply)[:MOST_CHARACTERS])

    def __str__(self) -> str:
        return f"{self.sender} answers {self.answer}{self.reason and ': '}{self.reason}"
