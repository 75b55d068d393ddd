"""What a run is: its parameters, the presets, and which values do not go together."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dynagent.learning.config import TrainConfig
from dynagent.learning.objectives import OBJECTIVES
from dynagent.llm.endpoints import endpoint, is_served
from dynagent.llm.local import Readout
from dynagent.parameters import Count, CountOrZero, EdgeProbability, Positive
from dynagent.runs.presets import PRESETS

WITHOUT_EFFECT = ("output_dir", "resume", "concurrency", "token_budget", "ask_again", "log_with")
LATER = ("max_new_tokens", "request_options")  # parameters that older runs did not have: no part of one without them
Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]

RequestOptions = Annotated[dict[str, Any], Field(description='a mapping, such as {"reasoning_effort": "low"}')]


class RunConfig(TrainConfig):
    """All parameters of a run: those of `notebooks/train.ipynb` and of `python -m dynagent train run.json`.

    Attributes:
        dataset: "mmlu", "cmmlu", "mixed" (both, half and half) or "sample" (questions that come with this package).
        data_source: "package" (pinned), "hub", a folder in the data set's official layout, or "recordings": replay of
            what `make record` left in the folder `recordings`, which needs neither data nor models.
        cmmlu_source: "hub" or a folder, of the Chinese half of "mixed"; data_source is then that of the English one.
        train_split, eval_split: see `dynagent.tasks.multiple_choice.load_questions`.
        train_limit, eval_limit: at most so many questions, or "all".
        team: "adversarial" (truthful and adversarial agents), "specialists" (truthful in one area of knowledge,
            adversarial outside), "languages" (the same for English and Chinese) or "two_models" (truthful agents on
            agent_llm and on second_agent_llm).
        num_truthful, num_adversarial: agents of the team "adversarial".
        num_per_domain: agents for each area, language or language model of the other teams.
        adversary: how an agent misleads: "least_likely", "asked" or "colluding", see `dynagent.team.agents.Truthful`;
            or "constant", always A (team "adversarial", as released).
        edge_llm, agent_llm, second_agent_llm: alias, hub id or folder; the last for the team "two_models" alone. The
            agents' may also be behind a server, as `openai:<base_url>#<model>`: see `dynagent.llm.served`.
        concurrency: calls under way at a time, at a server.
        token_budget: tokens that the agents' language models may read and write in one start of the run, in each of
            its processes; what is on record costs nothing. The run stops before the call that might go past it.
        max_new_tokens: bound of written replies in tokens, a model's thoughts included; without, the agents' own.
        request_options: more of what a server is asked, such as {"chat_template_kwargs": {"enable_thinking": false}}.
        ask_again: ask a model anew whose replies are on record, since it has changed under its name; the old ones are
            laid aside. Not part of what the run is, and to be set for one start alone.
        trust_remote_code: run the code that a model brings along; without, such a model is refused.
        agent_mode, temperature: see `dynagent.team.agents`.
        communicate: agents read the answers of their predecessors, and in agent_mode "text" the reasons that they give
            in one sentence; the edges between agents are then decided, too.
        edge_policy: "dynamic" (the edge LLM) or "static" (one logit an edge).
        readout, standardize, head_init, head: see `dynagent.policies.edge.EdgePolicy`.
        tune: "head" trains the head alone, "lora" also adapters in the edge LLM, "full" all of
            it: `dynagent.policies.tuned`.
        initial_probability: of every edge before training, or "auto": see `dynagent.policies.base.initial_probability`.
        output_dir: where runs are saved; a relative path starts at the project's root.
        resume: go on with a run that was killed, and leave one that is finished as it is; without, begin anew. Not
            part of what the run is.
        log_with: a tracker that Accelerate knows, which gets the metrics of every iteration while the run trains. Its
            package has to be installed ("tensorboard" is the extra of that name). Not part of what the run is.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    bias_speed: Positive = 3.0  # agents on real, small language models are hard to tell apart
    preset: Literal["smoke", "laptop", "replay", "paper"] = "laptop"
    dataset: Literal["mmlu", "cmmlu", "mixed", "sample"] = "mmlu"
    data_source: str = "package"
    cmmlu_source: str = "hub"
    recordings: str = "results/recordings"
    train_split: str = "train"
    eval_split: str = "test"
    train_limit: Count | Literal["all"] = "all"
    eval_limit: Count | Literal["all"] = 1000
    team: Literal["specialists", "languages", "adversarial", "two_models"] = "adversarial"
    num_truthful: CountOrZero = 4
    num_adversarial: CountOrZero = 4
    num_per_domain: Count = 2
    adversary: Literal["least_likely", "asked", "colluding", "constant"] = "least_likely"
    edge_llm: str = "smollm2-135m-instruct"
    agent_llm: str = "smollm2-135m-instruct"
    second_agent_llm: str | None = None
    concurrency: Count = 8
    token_budget: Count | None = None
    max_new_tokens: Count | None = None
    request_options: RequestOptions | None = None
    ask_again: bool = False
    trust_remote_code: bool = False
    agent_mode: Literal["options", "letter", "text"] = "options"
    temperature: Positive = 0.2
    communicate: bool = False
    edge_policy: Literal["dynamic", "static"] = "dynamic"
    readout: Readout = "mean_hidden"
    standardize: bool = True
    head_init: Literal["zero", "default"] = "zero"
    head: Literal["per_edge", "agent_aware"] = "per_edge"
    tune: Literal["head", "lora", "full"] = "head"
    initial_probability: EdgeProbability | Literal["auto"] = "auto"
    output_dir: str = "results/runs"
    resume: bool = True
    log_with: Tracker | None = None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.head == "agent_aware" and self.head_init != "zero":
            raise ValueError("head 'agent_aware' starts at zero: leave head_init at 'zero'.")
        if self.adversary == "constant" and self.team != "adversarial":
            raise ValueError("adversary 'constant' is for the team 'adversarial': a specialist has to know better.")
        if self.tune != "head" and (self.edge_policy, self.head) != ("dynamic", "per_edge"):
            raise ValueError(
                f"tune {self.tune!r} needs edge_policy 'dynamic' and head 'per_edge': set them, or tune 'head'."
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
        if self.communicate and self.agent_mode == "options":
            raise ValueError(
                "communicate needs a prompt with a place for messages: set agent_mode to 'text' or 'letter'."
            )
        if self.communicate and not OBJECTIVES[self.estimator].takes_readers:
            raise ValueError(
                f"communicate makes edges between agents matter, which the estimator {self.estimator!r} does not see: "
                "set estimator to 'leave_one_out'."
            )
        for name in filter(is_served, self.agent_llms):
            endpoint(name)
        if self.request_options and not all(map(is_served, self.agent_llms)):
            raise ValueError("request_options are for models behind a server: leave them out, or name such a model.")
        if is_served(self.edge_llm):
            raise ValueError("edge_llm is read from inside, and a server shows only replies: name a local model.")
        if (self.team == "two_models") != (self.second_agent_llm not in (None, self.agent_llm)):
            raise ValueError(
                "The team 'two_models', and no other, has a second_agent_llm, which is not agent_llm: "
                f"it is {self.second_agent_llm!r}."
            )
        return self

    @property
    def agent_llms(self) -> list[str]:
        """The agents' language models, in the order of the team."""
        return [self.agent_llm] if self.second_agent_llm is None else [self.agent_llm, self.second_agent_llm]

    def identity(self) -> dict[str, Any]:
        """The parameters that say what the run is: without those that change no number of it."""
        parameters = {name: value for name, value in self.to_dict().items() if name not in WITHOUT_EFFECT}
        return {name: value for name, value in parameters.items() if value is not None or name not in LATER}

    def papermill_command(self) -> str:
        """What runs the main notebook with these parameters: those are named that the preset does not give."""
        preset = RunConfig.from_parameters({"preset": self.preset}).to_dict()
        changed = {name: value for name, value in self.to_dict().items() if value != preset[name] or name == "dataset"}
        if self.preset != "replay":  # the notebook's own
            changed = {"preset": self.preset} | changed
        options = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in changed.items())
        return f"papermill notebooks/train.ipynb out.ipynb {options}"
