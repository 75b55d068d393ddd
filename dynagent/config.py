"""What a run is: its parameters, the presets, and every way in which they can be wrong."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dynagent.endpoints import endpoint, is_served
from dynagent.presets import PRESETS as PRESETS
from dynagent.train_config import STREAMS as STREAMS
from dynagent.train_config import TrainConfig as TrainConfig
from dynagent.train_config import nearest as nearest

WITHOUT_EFFECT = ("output_dir", "resume", "concurrency", "token_budget")


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainConfig):
    """All parameters of a run: those of `notebooks/train.ipynb` and of `python -m dynagent.train run.json`.

    Attributes:
        dataset: "mmlu", "cmmlu", "mixed" (both, half and half) or "sample" (questions that come with this package).
        data_source: "package" (pinned), "hub", a folder in the data set's official layout, or "recordings": replay of
            what `make record` left in the folder `recordings`, which needs neither data nor models.
        cmmlu_source: "hub" or a folder, of the Chinese half of "mixed"; data_source is then that of the English one.
        train_split, eval_split: see `dynagent.tasks.load_questions`.
        train_limit, eval_limit: at most so many questions, or "all".
        team: "adversarial" (truthful and adversarial agents), "specialists" (truthful in one area of knowledge,
            adversarial outside), "languages" (the same for English and Chinese) or "two_models" (truthful agents on
            agent_llm and on second_agent_llm).
        num_truthful, num_adversarial: agents of the team "adversarial".
        num_per_domain: agents for each area, language or language model of the other teams.
        adversary: how an agent misleads: "least_likely", "asked" or "colluding", see `dynagent.agents.Truthful`; or
            "constant", always A (team "adversarial", as released).
        edge_llm, agent_llm, second_agent_llm: alias, hub id or folder; the last for the team "two_models" alone. The
            agents' may also be behind a server, as `openai:<base_url>#<model>`: see `dynagent.llm.served`.
        concurrency: calls under way at a time, at a server.
        token_budget: tokens that the agents' language models may read and write in one start of the run, in each of
            its processes; what is on record costs nothing. The run stops before the call that might go past it.
        trust_remote_code: run the code that a model brings along; without, such a model is refused.
        agent_mode, temperature: see `dynagent.agents`.
        communicate: agents read the answers of their predecessors, and in agent_mode "text" the reasons that they give
            in one sentence; the edges between agents are then decided, too.
        edge_policy: "dynamic" (the edge LLM) or "static" (one logit an edge).
        readout, standardize, head_init, head: see `dynagent.policy.EdgePolicy`.
        tune: "head" trains the head alone, "lora" also adapters in the edge LLM, "full" all of it: `dynagent.tuning`.
        initial_probability: of every edge before training, or "auto": see `dynagent.policy.initial_probability`.
        output_dir: where runs are saved; a relative path starts at the project's root.
        resume: go on with a run that was killed, and leave one that is finished as it is; without, begin anew. Not
            part of what the run is.
    """

    bias_speed: float = 3.0  # agents on real, small language models are hard to tell apart
    preset: str = "laptop"
    dataset: str = "mmlu"
    data_source: str = "package"
    cmmlu_source: str = "hub"
    recordings: str = "results/recordings"
    train_split: str = "train"
    eval_split: str = "test"
    train_limit: int | str = "all"
    eval_limit: int | str = 1000
    team: str = "adversarial"
    num_truthful: int = 4
    num_adversarial: int = 4
    num_per_domain: int = 2
    adversary: str = "least_likely"
    edge_llm: str = "smollm2-135m-instruct"
    agent_llm: str = "smollm2-135m-instruct"
    second_agent_llm: str | None = None
    concurrency: int = 8
    token_budget: int | None = None
    trust_remote_code: bool = False
    agent_mode: str = "options"
    temperature: float = 0.2
    communicate: bool = False
    edge_policy: str = "dynamic"
    readout: str = "mean_hidden"
    standardize: bool = True
    head_init: str = "zero"
    head: str = "per_edge"
    tune: str = "head"
    initial_probability: float | str = "auto"
    output_dir: str = "results/runs"
    resume: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("preset", tuple(PRESETS))
        self._one_of("dataset", ("mmlu", "cmmlu", "mixed", "sample"))
        self._one_of("team", ("specialists", "languages", "adversarial", "two_models"))
        self._one_of("adversary", ("least_likely", "asked", "colluding", "constant"))
        self._one_of("agent_mode", ("options", "letter", "text"))
        self._one_of("edge_policy", ("dynamic", "static"))
        self._one_of("readout", ("last_hidden", "mean_hidden", "mean_embedding"))
        self._one_of("head_init", ("zero", "default"))
        self._real("temperature", above=0)
        for name in ("train_limit", "eval_limit"):
            if getattr(self, name) != "all":
                self._whole(name, at_least=1, or_else=" or 'all'")
        for name in ("num_truthful", "num_adversarial"):
            self._whole(name, at_least=0)
        self._whole("num_per_domain", at_least=1)
        self._whole("concurrency", at_least=1)
        if self.token_budget is not None:
            self._whole("token_budget", at_least=1, or_else=" or None")
        self._one_of("head", ("per_edge", "agent_aware"))
        if self.head == "agent_aware" and self.head_init != "zero":
            raise ValueError("head 'agent_aware' starts at zero: leave head_init at 'zero'.")
        if self.adversary == "constant" and self.team != "adversarial":
            raise ValueError("adversary 'constant' is for the team 'adversarial': a specialist has to know better.")
        self._one_of("tune", ("head", "lora", "full"))
        if self.tune != "head" and (self.edge_policy, self.head) != ("dynamic", "per_edge"):
            raise ValueError(
                f"tune {self.tune!r} needs edge_policy 'dynamic' and head 'per_edge': set them, or tune 'head'."
            )
        if self.initial_probability != "auto":
            self._real("initial_probability", above=0)
        if isinstance(self.initial_probability, float) and self.initial_probability >= 1:
            raise ValueError(
                "initial_probability has to lie strictly between 0 and 1, since a sure edge cannot be learned "
                f"about; it is {self.initial_probability!r}."
            )
        if self.adversary == "asked" and self.agent_mode == "options":
            raise ValueError("adversary 'asked' needs a prompt that asks: set agent_mode to 'letter' or 'text'.")
        if self.adversary == "colluding" and self.agent_mode == "text":
            raise ValueError("adversary 'colluding' compares likelihoods: set agent_mode to 'options' or 'letter'.")
        for name, value in (("agent_mode", "text"), ("dataset", "sample"), ("tune", "lora"), ("tune", "full")):
            if self.data_source == "recordings" and getattr(self, name) == value:
                raise ValueError(f"{name} {value!r} is not on record: choose another, or another data_source.")
        if self.team == "adversarial" and self.num_truthful + self.num_adversarial == 0:
            raise ValueError("The team has no agents: set num_truthful or num_adversarial to 1 or more.")
        texts = ("data_source", "cmmlu_source", "recordings", "edge_llm", "agent_llm", "output_dir", "train_split")
        for name in (*texts, "eval_split"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} has to be a text that is not empty, not {getattr(self, name)!r}.")
        for name in ("standardize", "trust_remote_code", "communicate", "resume"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} has to be true or false, not {getattr(self, name)!r}.")
        if self.communicate and self.agent_mode == "options":
            raise ValueError(
                "communicate needs a prompt with a place for messages: set agent_mode to 'text' or 'letter'."
            )
        if self.communicate and self.estimator in ("exact", "local_expectation"):
            raise ValueError(
                f"communicate makes edges between agents matter, which the estimator {self.estimator!r} does not see: "
                "set estimator to 'leave_one_out'."
            )
        if self.second_agent_llm is not None and (not isinstance(self.second_agent_llm, str) or not self.agent_llms[1]):
            raise ValueError(f"second_agent_llm has to be a model's name, not {self.second_agent_llm!r}.")
        for name in filter(is_served, self.agent_llms):
            endpoint(name)
        if is_served(self.edge_llm):
            raise ValueError("edge_llm is read from inside, and a server shows only replies: name a local model.")
        if (self.team == "two_models") != (self.second_agent_llm not in (None, self.agent_llm)):
            raise ValueError(
                "The team 'two_models', and no other, has a second_agent_llm, which is not agent_llm: "
                f"it is {self.second_agent_llm!r}."
            )

    @property
    def agent_llms(self) -> list[str]:
        """The agents' language models, in the order of the team."""
        return [self.agent_llm] if self.second_agent_llm is None else [self.agent_llm, self.second_agent_llm]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> RunConfig:
        """The preset's values, overridden by the parameters that are not None.

        Raises:
            ValueError: for an unknown name (with the nearest known one) or a bad value.
        """
        return cls(**over_preset(parameters, PRESETS, {field.name for field in fields(cls)}))

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> RunConfig:
        """The parameters of a notebook, from its `globals()`.

        papermill only warns of a name that the parameters cell does not have, and goes on with the defaults; here
        it is an error.
        """
        return cls.from_parameters(notebook_parameters(namespace, {field.name for field in fields(cls)}))

    @classmethod
    def from_json(cls, path: str | Path) -> RunConfig:
        """The parameters in a JSON file with one object."""
        try:
            parameters = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {path}: give a JSON file with a run's parameters.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON ({error}).") from None
        if not isinstance(parameters, dict):
            raise ValueError(f"{path} has to hold one JSON object of parameters.")
        return cls.from_parameters(parameters)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """The parameters that say what the run is: without those that change no number of it."""
        return {name: value for name, value in asdict(self).items() if name not in WITHOUT_EFFECT}

    def papermill_command(self) -> str:
        """What runs the main notebook with these parameters: those are named that the preset does not give."""
        preset = RunConfig.from_parameters({"preset": self.preset}).to_dict()
        changed = {name: value for name, value in self.to_dict().items() if value != preset[name] or name == "dataset"}
        if self.preset != "laptop":
            changed = {"preset": self.preset} | changed
        options = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in changed.items())
        return f"papermill notebooks/train.ipynb out.ipynb {options}"


def over_preset(
    parameters: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], names: Collection[str]
) -> dict[str, Any]:
    """The values of the preset that is named, by default "laptop", overridden by the parameters that are not None.

    Raises:
        ValueError: for a parameter that is not among the names, or an unknown preset, with the nearest known one.
    """
    for name in parameters:
        if name not in names:
            raise ValueError(f"There is no parameter {name!r}; {nearest(name, names)}")
    given = {name: value for name, value in parameters.items() if value is not None}
    preset = given.get("preset", "laptop")
    if preset not in tuple(presets):
        raise ValueError(f"There is no preset {preset!r}; {nearest(preset, tuple(presets))}")
    return {**presets[preset], **given}


def notebook_parameters(namespace: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """What a notebook's `globals()` say of the names, and whatever papermill was given."""
    parameters = {name: value for name, value in namespace.items() if name in names}
    for source in namespace.get("In", []):
        if source.startswith("# Parameters"):  # papermill's own mark on the cell that it adds
            for assigned in _assigned_names(source):
                parameters[assigned] = namespace[assigned]
    return parameters


def project_root() -> Path:
    """The checkout that this package is installed from, else the working directory."""
    root = Path(__file__).parents[1]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def resolve_path(path: str | Path) -> Path:
    """A path that starts at the project's root unless it is absolute."""
    return project_root() / Path(path).expanduser()


def _assigned_names(source: str) -> list[str]:
    return [
        target.id
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
