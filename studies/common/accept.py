"""Accept the present products as made by the present code: `make accept-records`.

This measures nothing. It writes into `pytask.lock` that every record, figure and table follows from the code and the
inputs as they are now. That is a statement by the person who calls it, and true only if it was shown: after code was
moved or rewritten, measure again what is quick (`--preset smoke`, single cells), compare all numbers with those before,
and accept then. Where numbers have changed, let `make studies` make the records anew.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from dynagent.runs.paths import project_root
from studies.common.program import program
from studies.common.stale import line, stale_steps
from studies.common.workflow import steps


@program
def main(
    names: Annotated[
        str, typer.Option("-k", help="only steps with this in their name, and what they follow from")
    ] = "",
    dry_run: Annotated[bool, typer.Option(help="only say what would be accepted")] = False,
) -> None:
    """Declare that present products follow from present code and inputs. Measures nothing; see the module's text."""
    try:
        stale = stale_steps()
    except ValueError:
        stale = {}  # there is no lock yet
    for name, why in stale.items():
        typer.echo(line(steps()[name], why))
    if dry_run:
        return
    for command in (["accept", *(["-k", names] if names else [])], ["clean"]):
        lock = [sys.executable, "-m", "pytask", "lock", *command, "--yes"]
        ended = subprocess.run(lock, cwd=project_root(), capture_output=True, text=True)
        if ended.returncode:
            raise ValueError(f"pytask could not write its lock:\n{ended.stdout}{ended.stderr}")
    typer.echo("Accepted. Commit pytask.lock, and say in the message how the numbers were compared.")


if __name__ == "__main__":
    sys.exit(main())
