"""The recipes, and the settings in which they are measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.common.study import Study

RECORDINGS = "results/recordings"
FEATURES = "smollm2-135m-instruct-b179c9523d0e-bfloat16.safetensors"  # of the questions, by the edge LLM
# Training questions. The paper's recipe draws 200 batches of 4 from all; the others get as many questions as can be put
# to all agents for no more calls than that takes.
PAPER_QUESTIONS = 800
BUDGET = {"routing": 640, "mixture": 700, "scale": 640, "adversarial": 576}


@dataclass(frozen=True)
class Recipe:
    """How a policy is made and trained: what differs from the default."""

    train: dict[str, Any] = field(default_factory=dict)  # of TrainConfig
    policy: dict[str, Any] = field(default_factory=dict)  # of EdgePolicy, or of StaticEdgePolicy.for_graph
    kind: str = "per_edge"  # or "agent_aware", or "static"


PAPER = Recipe(
    {"estimator": "reinforce", "graphs_per_question": 1, "num_iterations": 200, "learning_rate": 1e-4,
     "order": "fixed", "decide": "all"},
    {"readout": "last_hidden", "standardize": False, "head_init": "default", "initial_probability": 0.5},
)  # fmt: skip
RECIPES = {
    "paper": PAPER,
    "paper, one pass": Recipe(PAPER.train | {"num_iterations": "auto"}, PAPER.policy),
    "paper, static": Recipe(PAPER.train | {"learning_rate": 0.1}, {"probability": 0.5}, "static"),
    "sampling": Recipe({"estimator": "leave_one_out"}),
    "default": Recipe(),
    "default, static": Recipe({"learning_rate": 0.1}, {}, "static"),
    "agent_aware": Recipe(kind="agent_aware"),
}
# The default with one choice changed.
ABLATION = {
    "estimator: reinforce": Recipe({"estimator": "reinforce"}),
    "estimator: moving average": Recipe({"estimator": "moving_average"}),
    "estimator: leave-one-out, 4 graphs": Recipe({"estimator": "leave_one_out", "graphs_per_question": 4}),
    "estimator: leave-one-out, 16 graphs": Recipe({"estimator": "leave_one_out"}),
    "estimator: local expectation": Recipe({"estimator": "local_expectation"}),
    "readout: last hidden state": Recipe(policy={"readout": "last_hidden"}),
    "readout: mean embedding": Recipe(policy={"readout": "mean_embedding"}),
    "features: not standardized": Recipe(policy={"standardize": False}),
    "features: not standardized, learning rate 0.001": Recipe({"learning_rate": 0.001}, {"standardize": False}),
    "head: PyTorch's initialization": Recipe(policy={"head_init": "default"}),
    "initial probability: 0.5": Recipe(policy={"initial_probability": 0.5}),
    "initial probability: 0.1": Recipe(policy={"initial_probability": 0.1}),
    "optimizer: SGD": Recipe({"optimizer": "sgd", "learning_rate": 1.0}),
    "learning rate: 0.003": Recipe({"learning_rate": 0.003}),
    "learning rate: 0.3": Recipe({"learning_rate": 0.3}),
    "bias speed: 3, as on real agents": Recipe({"bias_speed": 3.0}),
    "bias speed: 10": Recipe({"bias_speed": 10.0}),
    "schedule: cosine": Recipe({"schedule": "cosine"}),
    "passes: 4": Recipe({"num_iterations": 640}),
    "passes: 4, early stopping": Recipe({"num_iterations": 480, "early_stopping": 0.25}),
    "early stopping": Recipe({"early_stopping": 0.25}),
}
SPARSITIES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
CURVE = (25, 50, 100, 200, 400, 800)
# Teams that the agent-aware policy of the routing world serves without training.
UNSEEN: dict[str, dict[str, Any]] = {
    "6 + 3": {"num_english": 6, "num_chinese": 3},
    "2 + 8": {"num_english": 2, "num_chinese": 8},
    "another order": {"shuffled": True},
}
ABLATED = ("routing", "mixture", "adversarial")
CONTROLLED = ("routing", "mixture")


@dataclass(frozen=True)
class Setting:
    """A world and a recipe. `part` says what the row is for: worlds, ablation, curve, sparsity or unseen."""

    part: str
    world: str
    recipe: str
    num_train: int
    sparsity: float = 0.0
    team: tuple[tuple[str, Any], ...] = ()  # options of the world's team
    deployed: str = ""  # a team of `UNSEEN`

    @property
    def world_name(self) -> str:
        options = ", ".join(f"{name} {value}" for name, value in self.team)
        return ", ".join(filter(None, (self.world, options, self.deployed)))


@dataclass(frozen=True)
class Controls:
    """The default recipe's policy in a world, beside its controls."""

    world: str


def measured_settings(study: Study, preset: str) -> list[Setting | Controls]:
    """All that is measured for results/learner.json."""
    return [*settings(), *map(Controls, CONTROLLED)]


def settings() -> list[Setting]:
    """Every recipe in every world, for all parts of the record but the controls."""
    worlds: list[tuple[str, tuple[tuple[str, Any], ...]]] = [
        ("scale", ()), ("routing", ()), ("routing", (("correlation", 0.3),)), ("mixture", ()),
        *(("adversarial", (("kind", kind),)) for kind in ("colluding", "constant", "wrong")),
    ]  # fmt: skip
    recipes = [name for name in RECIPES if name not in ("agent_aware", "paper, one pass")]
    found = [Setting("worlds", world, r, budget(world, r), team=team) for world, team in worlds for r in recipes]
    found += [Setting("ablation", world, r, 640) for world in ABLATED for r in ("default", *ABLATION)]
    found += [Setting("curve", "routing", r, n) for r in ("paper, one pass", "sampling", "default") for n in CURVE]
    found += [
        Setting("sparsity", "routing", r, budget("routing", r), sparsity)
        for r in ("paper", "default")
        for sparsity in SPARSITIES
    ]
    return found + [Setting("unseen", "routing", "agent_aware", 640, deployed=team) for team in ("", *UNSEEN)]


def budget(world: str, recipe: str) -> int:
    """Training questions of a recipe in a world."""
    return PAPER_QUESTIONS if recipe.startswith("paper") else BUDGET[world]
