"""What a run will ask of its agents' language models: calls from its plan, tokens and time from a small pilot."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import chain

import torch

from dynagent.endpoints import is_served
from dynagent.llm import Request
from dynagent.llm.budget import most_tokens
from dynagent.runs import Experiment, used_llms
from dynagent.train import training_plan

PILOT = 4  # batches at least; at a server as many as it takes at a time
EVALUATED = 85  # graphs a question that `compare_wirings` evaluates, beside one for each agent


@dataclass(frozen=True)
class Costs:
    """What a run's agents ask.

    Attributes:
        calls: different ones, of agents that have heard nobody.
        missing: of them not on record when the estimate began.
        pilot: of them asked for the estimate, and now on record.
        tokens, seconds: that the missing ones cost, the pilot included.
        most_more: at most as many more calls of agents that read others.
    """

    calls: int
    missing: int
    pilot: int
    tokens: float
    seconds: float
    most_more: int

    def __str__(self) -> str:
        cost = f"{self.tokens:,.0f} tokens and {self.seconds / 60:,.1f} minutes, by a pilot of {self.pilot:,}"
        parts = [f"{self.calls:,} different calls of agents", f"{self.missing:,} of them not on record"]
        parts += [f"which cost about {cost}"] * bool(self.missing)
        return ", ".join(parts + [f"at most {self.most_more:,} more of those that read"] * bool(self.most_more))


def estimate(experiment: Experiment) -> Costs:
    """Ask a few of the run's own calls, which then are on record, and scale what they cost by the length of the rest.

    Raises:
        ValueError, OSError: what the run would raise at its first reply.
    """
    config, runner, team = experiment.config, experiment.runner, experiment.graph.team
    held_out, order = training_plan(len(experiment.train_questions), config)
    visited = [experiment.train_questions[i] for i in torch.cat([held_out, order.flatten()]).unique().tolist()]
    if any(map(is_served, config.agent_llms)):
        runner.prepare(visited[:1])  # whether a server's replies can be used is known after the first
    key = Request.origin_key if config.data_source == "recordings" else Request.key
    calls = missing = pilot = 0
    tokens = seconds = 0.0
    for llm in used_llms(experiment.graph):
        plans = [runner.planned(questions) for questions in (visited, experiment.eval_questions)]
        lists = [[request for agent, request in plan if agent.llm is llm] for plan in plans]
        calls += len({key(request, llm.identity) for requests in lists for request in requests})
        batches = [batch for requests in lists for batch in llm.missing(requests)]
        if batches:
            chosen = batches[:: math.ceil(len(batches) / max(PILOT, getattr(llm.model, "concurrency", 1)))]
            paid, start = llm.budget.paid, time.monotonic()
            llm.complete(chosen, "pilot")
            most, most_of_pilot = (sum(map(most_tokens, chain(*some))) for some in (batches, chosen))
            tokens += (llm.budget.paid - paid) * most / most_of_pilot
            seconds += (time.monotonic() - start) * most / most_of_pilot
            missing, pilot = missing + sum(map(len, batches)), pilot + sum(map(len, chosen))
    trainings = 2 if config.edge_policy == "dynamic" else 1
    graphs = trainings * order.numel() * config.graphs_per_question
    graphs += len(experiment.eval_questions) * (EVALUATED + len(team))
    return Costs(calls, missing, pilot, tokens, seconds, graphs * sum(agent.reads for agent in team))
