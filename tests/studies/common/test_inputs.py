"""A study declares exactly the files of results that it reads while it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dynagent.runs.paths import project_root
from studies.common.workflow import STUDIES

# What is enough to read every input: settings by their place, and with how many seeds.
ENOUGH = {
    "learner": (slice(1), 0),
    "specialized-default": (slice(1), 0),
    "adversarial-smollm2-default": (slice(1), 0),
    "embedding_ablation": (slice(1), 1),
    "model_size": (slice(0, 15, 3), 1),  # every edge LLM
    "as_released": (slice(-40, -39), 1),  # on header rows, too
    "no_effect": (slice(1), 1),
    "frontier": (slice(1), 0),
    "communication": (slice(1), 0),
    "crosswords": (slice(1), 0),
    "idea": (slice(1), 1),
}
PROGRAM = """
import json, os, sys
from unittest import mock
import safetensors, safetensors.torch

opened = set()
sys.addaudithook(lambda event, given: opened.add(str(given[0])) if event == "open" else None)

def noting(function):  # reads in Rust, which no audit hook sees
    def call(path, *arguments, **named):
        opened.add(str(path))
        return function(path, *arguments, **named)
    return call

safetensors.torch.load_file = noting(safetensors.torch.load_file)
safetensors.safe_open = noting(safetensors.safe_open)
from studies.common.study import function_of
from studies.common.workflow import STUDIES

name, start, stop, step, seed, root = json.loads(sys.argv[1])
(study,) = [study for study in STUDIES if study.name == name]
chosen = function_of(study.settings)(study, "smoke")[slice(start, stop, step)]
measure = function_of(study.measure)
for setting in chosen:
    measure(setting, seed)
if name == "model_size":  # what else the record needs
    from studies.readings import model_size
    for edge_llm in {setting.edge_llm for setting in chosen} - {model_size.RECORDED}:
        model_size.source_of(model_size.reader_of(edge_llm).path)
if name == "communication":
    from studies.communication import measure as communication
    from studies.communication.team import FOLDER, MODEL
    communication.recorded_questions(communication.RecordedAnswers(
        communication.recorded_file(communication.resolve_path(FOLDER), "agent", MODEL)))
paths = {os.path.relpath(os.path.join(root, path), root) for path in opened}
files = sorted(path for path in paths if path.startswith("results/") and os.path.isfile(os.path.join(root, path)))
print(json.dumps([path for path in files if not path.startswith("results/runs/") and not path.endswith(".lock")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ENOUGH)
def test_the_inputs_are_what_is_read(name):
    (study,) = [study for study in STUDIES if study.name == name]
    chosen, seed = ENOUGH[name]
    given = json.dumps([name, chosen.start, chosen.stop, chosen.step, seed, str(project_root())])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], cwd=project_root(), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == sorted(study.inputs)


def test_every_folder_is_looked_at():
    assert {study.folder for study in STUDIES} == {study.folder for study in STUDIES if study.name in ENOUGH}
