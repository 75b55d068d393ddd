"""The worlds by name: who is in the team, and which questions it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dynagent.graph import AgentGraph
from dynagent.tasks.multiple_choice import Question
from dynagent.tasks.recorded import load_recorded
from dynagent.team.votes import MajorityVote
from dynagent.worlds.simulated import Simulated
from dynagent.worlds.world import World

SUBJECTS = (
    "professional_law", "moral_scenarios", "miscellaneous", "professional_psychology", "high_school_macroeconomics",
    "elementary_mathematics", "prehistory", "high_school_biology", "nutrition", "professional_accounting",
)  # fmt: skip
NUM_PER_SUBJECT = 120
NUM_EVAL = {"language": 385, "subject": 40}  # held out of each domain


def routing(
    seed: int, num_english: int = 4, num_chinese: int = 4, correlation: float = 0.0, shuffled: bool = False
) -> list[Simulated]:
    """Specialists for English and for Chinese questions, .55 right in their language and .30 in the other."""
    english, chinese = (
        Simulated(
            {own: 0.55, other: 0.30}, shared=correlation**0.5, seed=seed, name=f"Specialist({own})", group=own,
            description=f"An agent that answers questions in {language} well.",
        )
        for own, other, language in (("en", "zh", "English"), ("zh", "en", "Chinese"))
    )  # fmt: skip
    team = [english] * num_english + [chinese] * num_chinese
    if not shuffled:
        return team
    return [team[place] for place in torch.randperm(len(team), generator=torch.Generator().manual_seed(seed)).tolist()]


def adversarial(seed: int, kind: str = "colluding") -> list[Simulated]:
    """Eight truthful agents, .5 right, and eight adversaries: "colluding", "constant" or "wrong" (each on its own)."""
    truthful = Simulated({"en": 0.5}, seed=seed, name="Truthful", group="truthful")
    kind = "independent" if kind == "wrong" else kind
    adversary = Simulated({"en": 0.0}, kind=kind, seed=seed, name="Adversarial", group="adversarial")
    return [truthful] * 8 + [adversary] * 8


def mixture(seed: int) -> list[Simulated]:
    """Ten agents over ten subjects: each is .7 right in three of them and guesses (.25) in the others."""
    return [
        Simulated(
            {subject: 0.7 if (place - agent) % 10 < 3 else 0.25 for place, subject in enumerate(SUBJECTS)},
            "subject", seed=seed, name=f"Skills({agent + 1})", group=SUBJECTS[agent],
        )
        for agent in range(10)
    ]  # fmt: skip


def scale(seed: int) -> list[Simulated]:
    """Sixty-four agents, eight for each of eight subjects, .6 right there and guessing (.25) in the others."""
    return [
        Simulated(
            {subject: 0.6 if subject == own else 0.25 for subject in SUBJECTS[:8]},
            "subject", seed=seed, name=f"Specialist({own})", group=own,
        )
        for own in SUBJECTS[:8]
        for _ in range(8)
    ]  # fmt: skip


TEAMS: dict[str, Callable[..., list[Simulated]]] = {
    "routing": routing, "adversarial": adversarial, "mixture": mixture, "scale": scale,
}  # fmt: skip


def load_world(name: str, folder: Path, seed: int = 0, num_train: int = 768, **team: Any) -> World:
    """A world with its questions cut at random into those to train on and those held out, alike in every domain.

    Args:
        name: one of `TEAMS`.
        folder: of the recorded questions, see `dynagent.tasks.recorded`.
        seed: of the cut and of the shared draws.
        num_train: at most so many training questions, evenly over the domains; the held-out ones do not depend on it.
        team: passed on to the function of the team.
    """
    agents = TEAMS[name](seed, **team)
    domain_of, domains = agents[0].domain_of, list(agents[0].accuracy)
    splits = [("mmlu", "worlds")] if domain_of == "subject" else [("mmlu", "train"), ("mmlu", "test")]
    if "zh" in domains:
        splits += [("cmmlu", "dev"), ("cmmlu", "test")]
    pool = [question for split in splits for question in load_recorded(folder, *split)]
    train: list[Question] = []
    held_out: list[Question] = []
    for number, domain in enumerate(domains):
        mine = [question for question in pool if getattr(question, domain_of) == domain]
        order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(seed * 100 + number)).tolist()
        shuffled = [mine[i] for i in order]
        num_eval = NUM_EVAL[domain_of]
        held_out += shuffled[:num_eval]
        train += shuffled[num_eval : num_eval + num_train // len(domains)]
    return World(
        name, AgentGraph(agents, MajorityVote()), domain_of, train, held_out,
        dynamic=name != "adversarial", symmetric=name == "scale",
    )  # fmt: skip
