"""Records real answers and features, for experiments that replay without the model or the data.

`make record` fills results/recordings: an index of the questions with hash, subject, language and right answer but
without their text; the edge LLM's features of each; and for each prompt of the agents the log-probability of every
option or letter, one file for each model. It can be stopped and started again at any time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock

from dynagent.artefacts.downloads import write_file
from dynagent.artefacts.sources import computed_by
from dynagent.graph import AgentGraph
from dynagent.llm.local import TransformersModel
from dynagent.llm.reading import QuestionReader, save_features
from dynagent.llm.store import Recorded
from dynagent.policies.agent_aware import Description
from dynagent.runs.paths import resolve_path
from dynagent.tasks.multiple_choice import Question, Questions, load_questions
from dynagent.tasks.recorded import INDEX
from dynagent.team.agents import AREAS, LANGUAGES, Adversarial, Constant, Specialist, Truthful
from dynagent.team.protocols import Agent
from dynagent.team.votes import MajorityVote
from dynagent.worlds.teams import NUM_PER_SUBJECT, SUBJECTS, TEAMS
from studies.common.program import choose, program

MMLU = (("mmlu", "train", None), ("mmlu", "test", 1000))
CMMLU = (("cmmlu", "dev", 285), ("cmmlu", "test", 500))
PACKAGES = "packages.json"  # by file, the versions that computed it
AGENTS = (("qwen2.5-coder-1.5b-instruct", "letter"), ("smollm2-135m-instruct", "options"))


def record_answers(llm: Recorded, questions: Sequence[Question], mode: str, desc: str) -> None:
    """Ask for the right option, and where the mode can, for a wrong one."""
    agents = {"right": Truthful(llm, mode=mode)}
    if mode != "options":
        agents["wrong"] = Adversarial(llm, mode=mode, lying="asked")
    for kind, agent in agents.items():
        llm.reply([agent.request(question) for question in questions], f"{desc}, asked for a {kind} option")


def world_questions() -> Questions:
    """Questions of ten subjects of MMLU, for the worlds of simulated agents: read, but not asked."""
    test = load_questions("mmlu", "test")
    chosen = [[q for q in test if q.subject == subject][:NUM_PER_SUBJECT] for subject in SUBJECTS]
    return replace(test, split="worlds", items=tuple(question for questions in chosen for question in questions))


def descriptions_of_worlds() -> list[Description]:
    """What agent-aware policies are told about the agents of the worlds and the decision."""
    nodes = [node for make in TEAMS.values() for node in AgentGraph(make(0), MajorityVote()).nodes]
    return list(dict.fromkeys(Description.of(node) for node in nodes))


def descriptions_of_teams() -> list[Description]:
    """What agent-aware policies are told about the agents of every team that a run can have."""
    specialists = [Specialist(None, domain=domain) for domain in (*AREAS, *LANGUAGES)]
    team: list[Agent] = [Truthful(None), Adversarial(None), Constant(), *specialists]
    return [Description.of(node) for node in AgentGraph(team, MajorityVote()).nodes]


def write_index(folder: Path, sets: Sequence[Questions]) -> None:
    """One line a question: where it is from, what it is about, and which option is right; never its text."""
    lines = [
        json.dumps(
            {
                "question": question.id,
                "dataset": questions.dataset,
                "split": questions.split,
                "subject": question.subject,
                "language": question.language,
                "answer": question.answer,
            }
        )
        for questions in sets
        for question in questions
    ]
    write_file(folder / INDEX, ["".join(f"{line}\n" for line in lines).encode()])


def claimed(path: Path) -> Path:
    """The path of a recording, if it is new or was begun with these versions of the packages, which is written down.

    Raises:
        ValueError: for other versions, whose answers would be mixed with these.
    """
    packages, here = path.with_name(PACKAGES), computed_by()
    with FileLock(f"{packages}.lock"):
        known = json.loads(packages.read_text(encoding="utf-8")) if packages.exists() else {}
        if known.setdefault(path.name, here) != here:
            other = f"{path} was recorded with {known[path.name]}, and here is {here}"
            raise ValueError(f"{other}: install those versions, or record into another folder (--output).")
        write_file(packages, [f"{json.dumps(known, indent=1)}\n".encode()])
    return path


@program
def main(
    agent_llm: Annotated[
        str, typer.Option(help="alias, hub id or folder; by default " + ", ".join(map(" in mode ".join, AGENTS)))
    ] = "",
    agent_mode: Annotated[str, typer.Option(help="options or letter, of --agent-llm")] = "letter",
    edge_llm: Annotated[str, typer.Option(help="alias, hub id or folder")] = "smollm2-135m-instruct",
    cmmlu: Annotated[str, typer.Option(help="folder of CMMLU in its official layout")] = "",
    output: Annotated[str, typer.Option(help="folder of the recordings")] = "results/recordings",
) -> None:
    """Record a language model's answers to questions of MMLU, and of CMMLU where its folder is given."""
    choose([agent_mode], ("options", "letter"), "mode")
    folder = resolve_path(output)
    sets = [load_questions(name, split, limit=limit) for name, split, limit in MMLU]
    if cmmlu:
        sets += [load_questions(name, split, cmmlu, limit) for name, split, limit in CMMLU]
    folder.mkdir(parents=True, exist_ok=True)
    of_worlds = world_questions()
    write_index(folder, [*sets, of_worlds])
    reader = QuestionReader.load(edge_llm)
    read = [question for questions in (*sets, of_worlds) for question in questions]
    described = dict.fromkeys([*descriptions_of_worlds(), *descriptions_of_teams()])
    claimed(folder / f"{reader.identity}.safetensors")
    save_features(reader, [*read, *described], folder)
    for name, mode in [(agent_llm, agent_mode)] if agent_llm else AGENTS:
        model = TransformersModel.load(name)
        llm = Recorded(model, claimed(folder / f"{model.identity}.jsonl"))
        for questions in sets:
            record_answers(llm, questions, mode, f"{questions.dataset} {questions.split}")


if __name__ == "__main__":
    sys.exit(main())
