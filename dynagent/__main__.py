"""The commands of `python -m dynagent`.

python -m dynagent train run.json        # also: accelerate launch -m dynagent train run.json
python -m dynagent preflight run.json
python -m dynagent summary executed.ipynb
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dynagent.runs.config import RunConfig

app = typer.Typer(
    help="Input-conditioned graphs of language agents.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
RunFile = Annotated[
    Path, typer.Argument(help='A file with, for example, {"dataset": "mmlu", "team": "adversarial", "seed": 1}.')
]


@app.command()
def train(run: RunFile) -> None:
    """Train and evaluate the run that a JSON file of parameters describes (those of notebooks/train.ipynb)."""
    from dynagent.runs.record import summary
    from dynagent.runs.run import run_experiment

    def outcome() -> str:
        folder = run_experiment(RunConfig.from_json(run), f"python -m dynagent train {shlex.quote(str(run))}")
        return "" if folder is None else summary(folder)

    write_or_explain(outcome)


@app.command()
def preflight(run: RunFile) -> None:
    """Say what a run loads, asks and takes, and whether it fits, before anything is started."""
    from dynagent.runs.preflight import preflight as check

    write_or_explain(lambda: check(RunConfig.from_json(run)))


@app.command()
def summary(notebook: Annotated[Path, typer.Argument(help="A notebook that papermill executed.")]) -> None:
    """Print where an executed notebook left its record, figures and policy, and the accuracies."""
    from dynagent.runs.paths import readable
    from dynagent.runs.record import run_folder
    from dynagent.runs.record import summary as summary_of_run

    def lines() -> str:
        parameters = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]["parameters"]
        folder = run_folder(RunConfig.from_parameters(parameters))
        return f"notebook  {readable(notebook.resolve())}\n{summary_of_run(folder)}"

    write_or_explain(lines)


def write_or_explain(text: Callable[[], str]) -> None:
    """Write what a command makes, or in one sentence what is wrong; then the exit status is 2."""
    try:
        sys.stdout.write(text())
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"dynagent: {error}\n")
        raise typer.Exit(2) from None


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    try:
        app(arguments, prog_name="python -m dynagent", standalone_mode=True)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
