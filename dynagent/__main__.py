"""The commands of `python -m dynagent`.

python -m dynagent train run.json        # also: accelerate launch -m dynagent train run.json
python -m dynagent preflight run.json
python -m dynagent summary executed.ipynb
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

PROGRAM = "python -m dynagent"
# Help is there at once: what takes seconds to import is imported by the command that needs it.
app = typer.Typer(help="Input-conditioned graphs of language agents.", add_completion=False, rich_markup_mode=None)
RunFile = Annotated[
    Path, typer.Argument(help='A file with, for example, {"dataset": "mmlu", "team": "adversarial", "seed": 1}.')
]


@app.command()
def train(run: RunFile) -> None:
    """Train and evaluate the run that a JSON file of parameters describes (those of notebooks/train.ipynb)."""
    from dynagent.runs.config import RunConfig
    from dynagent.runs.record import summary
    from dynagent.runs.run import run_experiment

    folder = run_experiment(RunConfig.from_json(run), f"{PROGRAM} train {shlex.quote(str(run))}")
    if folder is not None:  # of the main process
        typer.echo(summary(folder), nl=False)


@app.command()
def preflight(run: RunFile) -> None:
    """Say what a run loads, asks and takes, and whether it fits, before anything is started."""
    from dynagent.runs.config import RunConfig
    from dynagent.runs.preflight import preflight

    typer.echo(preflight(RunConfig.from_json(run)), nl=False)


@app.command()
def summary(notebook: Annotated[Path, typer.Argument(help="A notebook that papermill executed.")]) -> None:
    """Print where an executed notebook left its record, figures and policy, and the accuracies."""
    from dynagent.runs.config import RunConfig
    from dynagent.runs.paths import readable
    from dynagent.runs.record import run_folder, summary

    folder = run_folder(RunConfig.from_parameters(parameters_of(notebook)))
    if not (folder / "record.json").exists():
        raise FileNotFoundError(f"{notebook} left no record in {readable(folder)}: was it executed to its end?")
    typer.echo(f"notebook  {readable(notebook.resolve())}\n{summary(folder)}", nl=False)


def parameters_of(notebook: Path) -> dict[str, Any]:
    """The parameters with which papermill executed a notebook."""
    try:
        parameters: dict[str, Any] = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"][
            "parameters"
        ]
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no notebook {notebook}.") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{notebook} is not a notebook that papermill executed.") from None
    return parameters


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status. Bad input ends in one sentence, and the status 2."""
    try:
        status: int | None = app(arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:  # a command, argument or option that is not there
        sentence = error.format_message().strip().rstrip(".").replace("\n", " ")
        sys.stderr.write(f"dynagent: {sentence} (see {PROGRAM} --help).\n")
        return 2
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        sys.stderr.write(f"dynagent: {error}\n")
        return 2
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
