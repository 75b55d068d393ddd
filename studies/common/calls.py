"""What a training costs in calls of the agents."""

from __future__ import annotations

from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import History
from dynagent.learning.objectives import OBJECTIVES


def agent_calls(config: TrainConfig, history: History, num_questions: int, num_agents: int) -> int:
    """Answers of agents that a training pays for.

    The published recipe asks anew, on every visit of a question, all agents from which a path leads to the decision.
    Every other asks an agent once about a question, held-out ones included, and remembers the answer.
    """
    if OBJECTIVES[config.estimator].is_published and config.decide == "all":
        return round(sum(history.column("num_reaching")) * config.batch_size * config.graphs_per_question)
    num_held_out = int(config.early_stopping * num_questions)
    return num_agents * (num_held_out + min(num_questions - num_held_out, len(history.rows) * config.batch_size))
