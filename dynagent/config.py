"""What a run is: its parameters, the presets, and every way in which they can be wrong."""

from __future__ import annotations

import ast
import difflib
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dynagent.estimators import BASELINES

STREAMS = ("data", "graphs", "init", "evaluation")


def nearest(name: object, known: Collection[str]) -> str:
    """A hint for an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}Known: {', '.join(sorted(known))}."


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop's part of a run.

    Attributes:
        num_iterations: optimiser steps.
        batch_size: questions a step, over all processes together.
        graphs_per_question: K, graphs drawn for each question of a batch.
        learning_rate: of Adam.
        baseline: "none" (as published), "moving_average" or "leave_one_out".
        sparsity: weight of the expected number of edges in the loss.
        order, decide: see `dynagent.sampling.sample_dags`.
        mixed_precision: "no" or "bf16", of Accelerate.
        seed: of data order, graphs, agents' draws and initialisation, each with a generator of its own.
    """

    num_iterations: int = 200
    batch_size: int = 4
    graphs_per_question: int = 16
    learning_rate: float = 0.1
    baseline: str = "leave_one_out"
    sparsity: float = 0.0
    order: str = "random"
    decide: str = "effective"
    mixed_precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_iterations", "batch_size", "graphs_per_question"):
            self._whole(name, at_least=1)
        self._whole("seed", at_least=0)
        for name in ("learning_rate", "sparsity", "temperature", "initial_probability"):
            if type(getattr(self, name, None)) is int:  # 1 and 1.0 are the same run
                object.__setattr__(self, name, float(getattr(self, name)))
        self._real("learning_rate", above=0)
        self._real("sparsity", at_least=0)
        self._one_of("baseline", BASELINES)
        self._one_of("order", ("random", "fixed"))
        self._one_of("decide", ("effective", "all"))
        self._one_of("mixed_precision", ("no", "bf16"))
        if self.baseline == "leave_one_out" and self.graphs_per_question < 2:
            raise ValueError(
                "The baseline 'leave_one_out' compares the graphs of one question: set graphs_per_question to 2 "
                "or more, or choose another baseline."
            )

    def stream(self, name: str) -> int:
        """The seed of one of the run's independent random generators, by the name of what it draws."""
        return self.seed * len(STREAMS) + STREAMS.index(name)

    def generator(self, name: str) -> torch.Generator:
        """A new generator at the start of a stream."""
        return torch.Generator().manual_seed(self.stream(name))

    def _whole(self, name: str, at_least: int, or_else: str = "") -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value < 2**32:
            raise ValueError(f"{name} has to be a whole number of {at_least} or more{or_else}, not {value!r}.")

    def _real(self, name: str, at_least: float | None = None, above: float = float("-inf")) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not above < value < float("inf") or (at_least is not None and value < at_least):
            bound = f"of {at_least} or more" if at_least is not None else f"above {above}"
            raise ValueError(f"{name} has to be a finite number {bound}, not {value!r}.")

    def _one_of(self, name: str, known: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; {nearest(value, known)}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainConfig):
    """All parameters of a run: those of `notebooks/train.ipynb` and of `python -m dynagent.train run.json`.

    Attributes:
        dataset: "mmlu", "cmmlu" or "sample" (questions that come with this package).
        data_source: "package" (pinned), "hub", or a folder in the data set's official layout.
        train_split, eval_split: see `dynagent.tasks.load_questions`.
        train_limit, eval_limit: at most so many questions, or "all".
        team: "adversarial" (truthful and adversarial agents), "specialists" (truthful in one area of knowledge,
            adversarial outside) or "languages" (the same for English and Chinese).
        num_truthful, num_adversarial: agents of the team "adversarial".
        num_per_domain: agents for each area or language of the other two teams.
        adversary: how an agent misleads: "least_likely" option, "asked" for a wrong one (modes "letter" and "text"), or
            "constant", always A (team "adversarial", as released).
        edge_llm, agent_llm: alias, hub id or folder.
        agent_mode, temperature: see `dynagent.agents`.
        edge_policy: "dynamic" (the edge LLM) or "static" (one logit an edge).
        readout, standardize, head_init: see `dynagent.policy.EdgePolicy`.
        initial_probability: of every edge before training.
        output_dir: where runs are saved; a relative path starts at the project's root.
    """

    preset: str = "laptop"
    dataset: str = "mmlu"
    data_source: str = "package"
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
    agent_mode: str = "options"
    temperature: float = 0.2
    edge_policy: str = "dynamic"
    readout: str = "last_hidden"
    standardize: bool = True
    head_init: str = "zero"
    initial_probability: float = 0.5
    output_dir: str = "results/runs"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("preset", tuple(PRESETS))
        self._one_of("dataset", ("mmlu", "cmmlu", "sample"))
        self._one_of("team", ("specialists", "languages", "adversarial"))
        self._one_of("adversary", ("least_likely", "asked", "constant"))
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
        self._real("initial_probability", above=0)
        if self.initial_probability >= 1:
            raise ValueError(
                "initial_probability has to lie strictly between 0 and 1, since a sure edge cannot be learned "
                f"about; it is {self.initial_probability!r}."
            )
        if self.adversary == "asked" and self.agent_mode == "options":
            raise ValueError("adversary 'asked' needs a prompt that asks: set agent_mode to 'letter' or 'text'.")
        if self.team == "adversarial" and self.num_truthful + self.num_adversarial == 0:
            raise ValueError("The team has no agents: set num_truthful or num_adversarial to 1 or more.")
        for name in ("data_source", "edge_llm", "agent_llm", "output_dir", "train_split", "eval_split"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} has to be a text that is not empty, not {getattr(self, name)!r}.")
        if not isinstance(self.standardize, bool):
            raise ValueError(f"standardize has to be true or false, not {self.standardize!r}.")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> RunConfig:
        """The preset's values, overridden by the parameters that are not None.

        Raises:
            ValueError: for an unknown name (with the nearest known one) or a bad value.
        """
        known = {field.name for field in fields(cls)}
        for name in parameters:
            if name not in known:
                raise ValueError(f"There is no parameter {name!r}; {nearest(name, known)}")
        given = {name: value for name, value in parameters.items() if value is not None}
        preset = given.get("preset", "laptop")
        if preset not in tuple(PRESETS):
            raise ValueError(f"There is no preset {preset!r}; {nearest(preset, tuple(PRESETS))}")
        return cls(**(PRESETS[preset] | given))

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> RunConfig:
        """The parameters of a notebook, from its `globals()`.

        papermill only warns of a name that the parameters cell does not have, and goes on with the defaults; here
        it is an error.
        """
        names = {field.name for field in fields(cls)}
        parameters = {name: value for name, value in namespace.items() if name in names}
        for source in namespace.get("In", []):
            if source.startswith("# Parameters"):  # papermill's own mark on the cell that it adds
                for assigned in _assigned_names(source):
                    parameters[assigned] = namespace[assigned]
        return cls.from_parameters(parameters)

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

    def papermill_command(self) -> str:
        """What runs the main notebook with these parameters: those are named that the preset does not give."""
        preset = RunConfig.from_parameters({"preset": self.preset}).to_dict()
        changed = {name: value for name, value in self.to_dict().items() if value != preset[name] or name == "dataset"}
        if self.preset != "laptop":
            changed = {"preset": self.preset} | changed
        options = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in changed.items())
        return f"papermill notebooks/train.ipynb out.ipynb {options}"


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"train_limit": 64, "eval_limit": 64, "num_iterations": 30},
    "laptop": {},
    "paper": {
        "data_source": "hub",
        "train_split": "dev",
        "eval_split": "val",
        "eval_limit": 1000,
        "num_truthful": 8,
        "num_adversarial": 8,
        "adversary": "constant",
        "edge_llm": "google/gemma-2b",
        "agent_llm": "google/gemma-7b-it",
        "agent_mode": "text",
        "graphs_per_question": 1,
        "baseline": "none",
        "learning_rate": 1e-4,
        "order": "fixed",
        "decide": "all",
        "standardize": False,
        "head_init": "default",
    },
}


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
