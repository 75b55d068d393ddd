"""Which records, figures and tables no longer follow from the code and the inputs: `make stale`.

Compares contents with `pytask.lock`, as pytask does before it runs a step, but loads neither pytask nor torch.
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from dynagent.runs.paths import resolve_path
from studies.common.program import program
from studies.common.workflow import TASK, File, Step, node_at, steps

LOCK = "pytask.lock"


def stale_steps() -> dict[str, list[str]]:
    """The steps whose products are stale, each with the reasons.

    Raises:
        ValueError: if there is no lock, or it cannot be read.
    """
    try:
        entries = tomllib.loads(resolve_path(LOCK).read_text(encoding="utf-8"))["task"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise ValueError(f"{LOCK} is missing or damaged ({error}): restore it with git.") from None
    locked = {entry["id"]: entry for entry in entries}
    makers = {product: step for step in steps().values() for product in step.products}
    reasons: dict[str, list[str]] = {}

    def visit(step: Step) -> list[str]:
        if step.name not in reasons:
            entry = locked.get(f"{TASK}::task_step[{step.name}]")
            changes = changes_since(step, entry) if entry else [f"it is not in {LOCK}"]
            above = [path for path in step.inputs if path in makers and visit(makers[path])]
            reasons[step.name] = [*changes, *(f"{path} is stale" for path in above)]
        return reasons[step.name]

    for step in steps().values():
        visit(step)
    return {name: why for name, why in reasons.items() if why}


def changes_since(step: Step, entry: Mapping[str, Any]) -> list[str]:
    """How what is here differs from what the lock says of a step."""
    now = {_id(node): node.state() for node in step.dependencies}
    then = {name: state for name, state in entry["depends_on"].items() if "::" not in name}
    changes = [] if entry["state"] == _sha256(resolve_path(TASK)) else [f"{TASK} has changed"]
    for name in sorted(now.keys() | then.keys()):
        if name not in now:
            changes.append(f"{name} does not count any more")
        elif now[name] is None:
            changes.append(f"{name} is missing")
        elif name not in then:
            changes.append(f"{name} is new")
        elif now[name] != then[name]:
            changes.append(f"{name} has changed" if name != "declaration" else "its settings have changed")
    for path in step.products:
        state = node_at(path).state()
        if state != entry["produces"].get(path):
            changes.append(f"{path} is missing" if state is None else f"{path} is not the one that was made")
    return changes


def _id(node: Any) -> str:
    """A node's name in the lock: of a file, its path from the project's root."""
    return node.path.relative_to(resolve_path(".")).as_posix() if isinstance(node, File) else node.name


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def line(step: Step, why: list[str]) -> str:
    """The products of a step and why they are stale."""
    first, *rest = step.products
    products = " and ".join([first, *(Path(path).suffix for path in rest)])
    more = f" (and {len(why) - 1} more)" if len(why) > 1 else ""
    return f"{products}: {why[0]}{more}"


@program
def main() -> None:
    """Say which records, figures and tables are stale, a line each; the exit status is 1 if any is, else 0."""
    stale = stale_steps()
    for name, why in stale.items():
        typer.echo(line(steps()[name], why))
    count = len(steps())
    typer.echo(f"{len(stale)} of {count} steps have stale products." if stale else f"All {count} steps are up to date.")
    raise typer.Exit(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
