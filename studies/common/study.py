"""What a study is: a question, how it is measured, from which files, and the record that answers it.

A study is declared in `studies/<folder>/study.py`. The declaration names its functions as "module:function" instead of
importing them, so that `make stale` reads all declarations without loading torch.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynagent.runs.paths import resolve_path
from studies.common.dependencies import digest_of, measuring_code

if TYPE_CHECKING:
    from studies.common.grid import Job

Call = tuple[str, tuple[Any, ...]]  # a function's name, its arguments
FOLDER = "results/ablations"
REMEMBERED = "results/runs/outcomes"  # what each run of a study gave, until code or inputs change
UNCOMMITTED = "results/runs/records"  # records of presets that are no result
INDEX = "results/recordings/index.jsonl"
QWEN_ANSWERS = "results/recordings/qwen2.5-coder-1.5b-instruct-cc324af070c2-bfloat16.jsonl"
SMOLLM2_ANSWERS = "results/recordings/smollm2-135m-instruct-b179c9523d0e-bfloat16.jsonl"
SMOLLM2_FEATURES = "results/recordings/smollm2-135m-instruct-b179c9523d0e-bfloat16.safetensors"


@dataclass(frozen=True)
class Answer:
    """A sentence of a README, with numbers from the record.

    Attributes:
        text: with a `{}` for each number.
        keys: where the numbers stand in the record, see `studies.common.answers.value_at`.
        scale, digits: 100 for points of accuracy; behind the decimal point.
    """

    text: str
    keys: tuple[tuple[Any, ...], ...]
    scale: float = 100
    digits: int = 1


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, how it is measured, and the record that answers it.

    Functions are "module:function"; paths start at the project's root.

    Attributes:
        name: on the command line.
        kind: of the record, as it is written there.
        folder: of studies, `python -m studies.<folder>` runs it.
        question: that the record answers.
        settings: gives all that is measured, (study, preset) -> hashable settings with a complete `repr`.
        declared: all settings as a text, where the module that declares them is not to count as code: what else stands
            in it concerns other records.
        measure: (setting, seed) -> outcome; with `seeds_together`, (setting, number of seeds) -> outcome.
        once: (number of seeds) -> outcome of what is measured beside the seeds.
        write: takes `Measured` and writes the record.
        record: path of the record.
        arrays: further files that `write` leaves.
        inputs: files that measuring reads, beside code.
        seeds: their number by preset.
        seeds_together: whether all seeds of a setting are trained in one batch.
        answers: for the README of the folder.
    """

    name: str
    kind: str
    folder: str
    question: str
    settings: str
    measure: str
    write: str
    record: str
    declared: str = ""
    once: str = ""
    arrays: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 2, "laptop": 20})
    seeds_together: bool = False
    answers: tuple[Answer, ...] = ()

    @property
    def products(self) -> tuple[str, ...]:
        return (self.record, *self.arrays)

    def code(self) -> tuple[Path, ...]:
        """Files of source that the record follows from."""
        functions = {self.measure, self.write, self.once or self.measure, self.settings}
        if self.declared:
            functions.remove(self.settings)
        return measuring_code(*sorted({name.partition(":")[0] for name in functions}))

    def declaration(self) -> str:
        """What of this declaration the record follows from, as a text."""
        names = (self.settings, self.declared, self.measure, self.once, self.write, self.seeds["laptop"])
        return repr((*names, self.seeds_together))

    def command(self, preset: str, num_seeds: int) -> str:
        """What makes the record again."""
        parts = [f"python -m studies.{self.folder}" + f" {self.name}" * (self.kind != self.folder)]
        parts += [f"--preset {preset}"] * (preset != "laptop")
        return " ".join(parts + [f"--seeds {num_seeds}"] * (num_seeds != self.seeds[preset]))


@dataclass(frozen=True)
class Measured:
    """What a study has measured, and where its record goes.

    Attributes:
        outcomes: setting -> the outcome of each seed; with `seeds_together`, the one outcome of all seeds.
        once: what was measured beside the seeds.
        path: of the record.
        code: the version that has measured, `dynagent.runs.provenance.code_version`.
        seconds: that measuring took.
    """

    study: Study
    preset: str
    num_seeds: int
    outcomes: dict[Any, Any]
    once: Any
    path: Path
    command: str
    code: dict[str, Any]
    seconds: float

    def origin(self) -> dict[str, Any]:
        """Where the numbers are from, as fields of a `Record`; the study adds parameters, questions and inputs."""
        from dynagent.runs.provenance import now

        return {
            "kind": self.study.kind,
            "command": self.command,
            "seeds": list(range(self.num_seeds)),
            "code": self.code,
            "timing": {"seconds": round(self.seconds), "saved_at": now()},
        }


def function_of(name: str) -> Callable[..., Any]:
    """The function "module:function"."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def run(study: Study, preset: str = "laptop", num_seeds: int = 0, processes: int = 2, output: str = "") -> Path:
    """Measure what is not remembered, and write the record.

    Args:
        num_seeds: 0 for the preset's own.
        output: folder of the record; "" for the place of the committed one, or for other presets and numbers of seeds,
            a place beside it that is not committed.

    Returns:
        The path of the record.
    """
    from dynagent.runs.provenance import code_version
    from studies.common.grid import measured

    started, code = time.monotonic(), code_version()  # of the code that runs, not of what the tree is at the end
    num_seeds = num_seeds or study.seeds[preset]
    is_result = preset == "laptop" and num_seeds == study.seeds[preset]
    folder = output or (str(Path(study.record).parent) if is_result else UNCOMMITTED)
    settings = list(dict.fromkeys(function_of(study.settings)(study, preset)))
    seeds = [num_seeds] if study.seeds_together else list(range(num_seeds))
    calls: list[Call] = [(study.measure, (setting, seed)) for setting in settings for seed in seeds]
    if study.once:
        calls.append((study.once, (num_seeds,)))
    together = study.seeds_together
    outcomes = measured(_jobs(study, calls), 1 if together else processes, study.name, share_cores=not together)
    once = outcomes.pop() if study.once else None
    by_setting = {
        setting: outcomes[place * len(seeds) : (place + 1) * len(seeds)] for place, setting in enumerate(settings)
    }
    path = resolve_path(folder) / Path(study.record).name
    path.parent.mkdir(parents=True, exist_ok=True)
    result = Measured(
        study, preset, num_seeds,
        {setting: group[0] for setting, group in by_setting.items()} if study.seeds_together else by_setting,
        once, path, study.command(preset, num_seeds), code, time.monotonic() - started,
    )  # fmt: skip
    function_of(study.write)(result)
    return path


def _jobs(study: Study, calls: Sequence[Call]) -> list[Job]:
    """Calls of functions by name, with the files that remember what they gave for this code and these inputs."""
    from studies.common.grid import Job

    folder, jobs = resolve_path(REMEMBERED) / study.name, []
    inputs = [resolve_path(path) for path in study.inputs]
    names = {name for name, _ in calls}
    states = {name: digest_of([*measuring_code(name.partition(":")[0]), *inputs]) for name in names}
    for name, arguments in calls:
        key = hashlib.sha256(repr((name, arguments, states[name])).encode()).hexdigest()[:32]
        jobs.append(Job(function_of(name), arguments, folder / f"{key}.npz"))
    return jobs
