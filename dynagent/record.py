"""Records real answers, for experiments that replay without the model or the data.

`make record` fills results/recordings: for every question and prompt the log-probability of each letter, and an index
of the questions with hash, subject, language and right answer but without their text. It can be stopped and started
again at any time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dynagent.agents import Adversarial, Truthful
from dynagent.config import resolve_path
from dynagent.llm import Recorded, TransformersModel
from dynagent.tasks import Question, Questions, load_questions

MMLU = (("mmlu", "train", None), ("mmlu", "test", 1000))
CMMLU = (("cmmlu", "dev", 285), ("cmmlu", "test", 500))


def record_answers(llm: Recorded, questions: Sequence[Question], desc: str) -> None:
    """Ask for the right option, and for a wrong one, by the likelihood of the letters."""
    for kind, agent in (
        ("right", Truthful(llm, mode="letter")),
        ("wrong", Adversarial(llm, mode="letter", lying="asked")),
    ):
        llm.reply([agent.request(question) for question in questions], f"{desc}, asked for a {kind} option")


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
    temporary = folder / "index.tmp"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(folder / "index.jsonl")


def main(arguments: list[str] | None = None) -> int:
    """Record a language model's answers to questions of MMLU, and of CMMLU where its folder is given."""
    parser = argparse.ArgumentParser(prog="python -m dynagent.record", description=main.__doc__)
    parser.add_argument("--agent-llm", default="qwen2.5-coder-1.5b-instruct", help="alias, hub id or folder")
    parser.add_argument("--cmmlu", help="folder of CMMLU in its official layout")
    parser.add_argument("--output", default="results/recordings", help="default: %(default)s")
    options = parser.parse_args(arguments)
    folder = resolve_path(options.output)
    try:
        sets = [load_questions(name, split, limit=limit) for name, split, limit in MMLU]
        if options.cmmlu:
            sets += [load_questions(name, split, options.cmmlu, limit) for name, split, limit in CMMLU]
        folder.mkdir(parents=True, exist_ok=True)
        write_index(folder, sets)
        model = TransformersModel.load(options.agent_llm)
        llm = Recorded(model, folder / f"{model.identity}.jsonl")
        for questions in sets:
            record_answers(llm, questions, f"{questions.dataset} {questions.split}")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"dynagent: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
