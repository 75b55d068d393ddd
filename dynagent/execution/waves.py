"""Who runs when: agents whose answer reaches the decision, and agents that read, after all whom they hear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dynagent.execution.answers import Answer, Answers, Situation
from dynagent.team.protocols import Question

Place = tuple[int, int, int]  # question of the batch, graph of the question, node


def ancestors(adjacency: Tensor, node: int) -> Tensor:
    """Nodes with a path to `node`, itself included: [..., M] bool from [..., M, M] bool."""
    reached = adjacency[..., :, node].clone()
    reached[..., node] = True
    for _ in range(adjacency.shape[-1]):
        grown = reached | (adjacency & reached[..., None, :]).any(-1)
        if torch.equal(grown, reached):
            break
        reached = grown
    return reached


def ask_in_waves(
    answers: Answers, questions: Sequence[Question], adjacency: Tensor, readers: Tensor
) -> dict[Place, Answer]:
    """Ask the agents that read, in waves: all whom the agents of a wave hear have answered before.

    Args:
        answers: what the team has said so far; those who do not read have answered.
        questions: B questions.
        adjacency: [B, K, M, M] bool, without edges into agents that do not read.
        readers: [B, K, N] bool, the agents to ask.

    Returns:
        The answer at each of these places.

    Raises:
        ValueError: for a graph with a cycle.
    """
    situations: dict[Place, Situation] = {}
    waiting: list[Place] = [(b, k, node) for b, k, node in readers.nonzero().tolist()]
    while waiting:
        ready, blocked = _wave(waiting, adjacency)
        if not ready:
            raise ValueError("The agents that read wait for each other: the graph has a cycle.")
        for place, senders in ready.items():
            situations[place] = _situation(place, senders, situations, answers, questions)
        answers.ask({situations[place]: questions[place[0]] for place in ready})
        waiting = blocked
    return dict(zip(situations, answers.known(situations.values()), strict=True))


def _wave(waiting: Sequence[Place], adjacency: Tensor) -> tuple[dict[Place, list[int]], list[Place]]:
    """The waiting agents that can run, each with those whom it hears, and the ones that hear somebody who waits."""
    unanswered = set(waiting)
    ready: dict[Place, list[int]] = {}
    blocked = []
    for place in waiting:
        b, k, node = place
        senders = adjacency[b, k, :-1, node].nonzero().flatten().tolist()
        if any((b, k, sender) in unanswered for sender in senders):
            blocked.append(place)
        else:
            ready[place] = senders
    return ready, blocked


def _situation(
    place: Place,
    senders: Sequence[int],
    situations: Mapping[Place, Situation],
    answers: Answers,
    questions: Sequence[Question],
) -> Situation:
    """What an agent has heard when it is asked. Senders that are in no wave read nobody."""
    b, k, node = place
    question_id = questions[b].id
    of_senders = [situations.get((b, k, sender), Situation(question_id, sender)) for sender in senders]
    return Situation(question_id, node, tuple(answers.message(situation) for situation in of_senders))
