"""What all programs of the studies share: options from a function's signature, and bad input ends in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from dynagent.parameters import nearest
from dynagent.runs.paths import resolve_path
from studies.common.study import Study, run


def program(command: Callable[..., Any]) -> Callable[..., int]:
    """A program from a function: its parameters are the options, its docstring is what `--help` says.

    Returns:
        A function of the command line's arguments (by default the process's own) that gives the exit status: 0, or 2
        after a sentence on stderr that says what is wrong.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)

    def main(arguments: Sequence[str] | None = None) -> int:
        module = command.__module__
        if module == "__main__":
            spec = sys.modules[module].__spec__
            module = spec.name if spec else module
        name = f"python -m {module}"
        try:
            app(None if arguments is None else list(arguments), prog_name=name)
        except SystemExit as ended:  # at its end, too
            return int(ended.code or 0)
        except (ValueError, OSError, FloatingPointError) as error:
            sys.stderr.write(f"dynagent: {error}\n")
            return 2
        return 0

    main.__doc__ = command.__doc__
    return main


def choose(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """The names, or all that are known where none is given.

    Raises:
        ValueError: for a name that is not known; the sentence has the nearest that is.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"There is no {what} {name!r}; {nearest(name, known)}")
    return list(names or known)


def study_program(studies: Sequence[Study], about: str) -> Callable[..., int]:
    """The program of a folder of studies, `python -m studies.<folder>`."""
    by_name = {study.name: study for study in studies}

    def measure(
        names: Annotated[list[str] | None, typer.Argument(help="only these records; by default all")] = None,
        preset: Annotated[str, typer.Option(help="smoke (a minute) or laptop (the committed record)")] = "laptop",
        seeds: Annotated[int, typer.Option(help="of every setting; by default the preset's")] = 0,
        processes: Annotated[int, typer.Option(min=1, help="over which the seeds are spread")] = 2,
        output: Annotated[str, typer.Option(help="folder of the records; by default where they are committed")] = "",
    ) -> None:
        chosen = [by_name[name] for name in choose(names or (), list(by_name), "record")]
        for study in chosen:
            choose([preset], list(study.seeds), "preset")
        if seeds < 0:
            raise ValueError(f"--seeds is {seeds}: give 1 or more.")
        for study in chosen:
            path = run(study, preset, seeds, processes, output)
            typer.echo(path.relative_to(resolve_path(".")) if path.is_relative_to(resolve_path(".")) else path)

    measure.__doc__ = about + "\n\nRecords: " + ", ".join(by_name) + ".\n\nA run that is stopped goes on where it was."
    measure.__module__ = f"studies.{studies[0].folder}"
    return program(measure)
