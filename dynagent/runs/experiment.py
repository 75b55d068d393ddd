"""A run as a whole: its parts, what they used, and the record of what came out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dynagent.artefacts.sources import Source
from dynagent.execution.runner import Runner, used_llms
from dynagent.graph import AgentGraph
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.llm.replay import RecordedAnswers, recorded_source
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import readable
from dynagent.runs.provenance import digest, environment
from dynagent.tasks.multiple_choice import Questions

# What this process runs, whatever becomes of the files later.
CODE = digest([file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parents[1].rglob("*.py"))])


@dataclass
class Experiment:
    """The parts of a run, ready to train and evaluate.

    Raises:
        ValueError: if a training question is also an evaluation question.
    """

    config: RunConfig
    train_questions: Questions
    eval_questions: Questions
    graph: AgentGraph
    policy: Policy
    runner: Runner

    def __post_init__(self) -> None:
        shared = {question.id for question in self.train_questions} & {question.id for question in self.eval_questions}
        if shared:
            first = f"{len(shared)} training questions, the first {min(shared)},"
            raise ValueError(f"{first} are also evaluation questions: load_split_questions takes them out.")

    @property
    def reader(self) -> QuestionReader | RecordedReader | None:
        """The edge LLM, loaded; a static policy has none."""
        return self.policy.reader if isinstance(self.policy, EdgePolicy) else None


def fingerprint(experiment: Experiment) -> dict[str, str]:
    """Hashes of all that a run's numbers depend on, by name: runs are the same if these are."""
    return {
        "set of parameters": digest(experiment.config.identity()),
        "set of questions": digest([q.id for q in (*experiment.train_questions, *experiment.eval_questions)]),
        "data set or model": digest([source.sha256 for source in used_sources(experiment)]),
        "version of dynagent's code": CODE,
        "version of the packages": digest(environment()["packages"]),
    }


def used_sources(experiment: Experiment) -> list[Source]:
    """Where the run's data and weights, or the record of them, came from, each once."""
    sources = [*experiment.train_questions.sources, *experiment.eval_questions.sources]
    sources += [
        llm.source if isinstance(llm, RecordedAnswers) else llm.model.source for llm in used_llms(experiment.graph)
    ]
    reader = experiment.reader
    if reader is not None:
        sources.append(recorded_source(reader.path) if isinstance(reader, RecordedReader) else reader.model.source)
    return [_from_the_root(source) for source in dict.fromkeys(sources)]


def _from_the_root(source: Source) -> Source:
    """A record's place as it is written in a run's parameters."""
    return replace(source, location=readable(Path(source.location))) if source.kind == "record" else source
