"""Input-conditioned graphs of language agents, learned by REINFORCE.

The names below can be imported from here; each is fetched from its module when first asked for, so
that ``import dynagent`` stays cheap. The training loop and the evaluation are called as their modules
are, and are imported from them: ``from dynagent.train import train``,
``from dynagent.evaluate import evaluate``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dynagent.agents import Adversarial as Adversarial
    from dynagent.agents import Constant as Constant
    from dynagent.agents import Specialist as Specialist
    from dynagent.agents import Truthful as Truthful
    from dynagent.config import RunConfig as RunConfig
    from dynagent.config import TrainConfig as TrainConfig
    from dynagent.decision import MajorityVote as MajorityVote
    from dynagent.graph import AgentGraph as AgentGraph
    from dynagent.llm import load_llm as load_llm
    from dynagent.policy import EdgePolicy as EdgePolicy
    from dynagent.policy import StaticEdgePolicy as StaticEdgePolicy
    from dynagent.results import RunRecord as RunRecord
    from dynagent.sampling import most_probable_dags as most_probable_dags
    from dynagent.sampling import sample_dags as sample_dags
    from dynagent.tasks import Question as Question
    from dynagent.tasks import load_questions as load_questions

_MODULE_OF = {
    "AgentGraph": "graph",
    "sample_dags": "sampling",
    "most_probable_dags": "sampling",
    "EdgePolicy": "policy",
    "StaticEdgePolicy": "policy",
    "load_llm": "llm",
    "Question": "tasks",
    "load_questions": "tasks",
    "Truthful": "agents",
    "Adversarial": "agents",
    "Specialist": "agents",
    "Constant": "agents",
    "MajorityVote": "decision",
    "RunConfig": "config",
    "TrainConfig": "config",
    "RunRecord": "results",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
