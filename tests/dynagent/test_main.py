"""`python -m dynagent`: every command explains itself, and what is wrong is one sentence and the exit status 2."""

import json
import subprocess
import sys

import pytest

from dynagent.__main__ import app, main

COMMANDS = [command.callback.__name__ for command in app.registered_commands]


def test_the_commands_are_those_of_the_readme():
    assert COMMANDS == ["train", "preflight", "summary"]


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_everything_has_help(arguments, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: python -m dynagent {'' if len(arguments) == 1 else arguments[0]}".rstrip())
    assert err == ""


def test_help_does_not_wait_for_torch():
    code = "import sys; from dynagent.__main__ import main; main(['train', '--help']); print(*sys.modules)"
    *_, loaded = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert "typer" in loaded.split()
    assert {"torch", "transformers", "accelerate"} & set(loaded.split()) == set()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing command (see python -m dynagent --help)."),
        (["trian", "run.json"], "No such command 'trian'. Did you mean 'train'? (see python -m dynagent --help)."),
        (["train"], "Missing argument 'run' (see python -m dynagent --help)."),
        (["train", "run.json", "b"], "Got unexpected extra argument(s) (b) (see python -m dynagent --help)."),
        (["preflight", "--fast", "x"], "No such option: --fast (see python -m dynagent --help)."),
        (["train", "missing.json"], "There is no file missing.json: give a JSON file with a run's parameters."),
        (["preflight", "list.json"], "list.json has to hold one JSON object of parameters."),
        (["summary", "missing.ipynb"], "There is no notebook missing.ipynb."),
        (["summary", "text.ipynb"], "text.ipynb is not a notebook that papermill executed."),
        (["summary", "list.json"], "list.json is not a notebook that papermill executed."),
        (["summary", "plain.ipynb"], "plain.ipynb is not a notebook that papermill executed."),
        (["summary", "broken.ipynb"], "There is no parameter 'sede'; did you mean 'seed'?"),
        (["summary", "stopped.ipynb"], "stopped.ipynb left no record in "),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def executed(**parameters):
        return json.dumps({"metadata": {"papermill": {"parameters": parameters}}})

    files = {
        "list.json": "[1]",
        "text.ipynb": "not JSON",
        "plain.ipynb": '{"metadata": {}}',
        "broken.ipynb": executed(sede=1),
        "stopped.ipynb": executed(output_dir=str(tmp_path / "runs")),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dynagent: {sentence}")
    assert err.count("\n") == 1
    assert err.endswith((".\n", "?\n"))


def test_a_failure_that_is_not_the_user_s_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("dynagent.runs.config.RunConfig.from_json", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", str(tmp_path / "run.json")])
