"""The steps of `studies.common.workflow` as tasks of pytask.

A change of this file makes every product stale, so that it holds nothing but the loop. Its folder is no package: pytask
would import a module of a package from where that is installed, which need not be here.
"""

from typing import Any

import pytask

from studies.common.workflow import make, node_at, steps

for step in steps().values():

    def task_step(name: str, depends_on: list[Any], produces: list[Any]) -> None:
        make(name)

    for group in step.groups:
        task_step = getattr(pytask.mark, group)(task_step)
    nodes: dict[str, Any] = {"depends_on": step.dependencies, "produces": [node_at(path) for path in step.products]}
    pytask.task(id=step.name, kwargs={"name": step.name} | nodes)(task_step)
