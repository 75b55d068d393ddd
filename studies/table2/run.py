"""Table 2 on recorded answers: `make experiments` trains many seeds of every cell and writes results/experiments.

A cell that is on record with the same parameters, seeds, recordings and code is not run again, so that the program can
be stopped and started at any time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from dynagent.parameters import nearest
from dynagent.progress import progress
from dynagent.runs.paths import resolve_path
from studies.common.program import program
from studies.table2.measure import Measurement, measure
from studies.table2.record import FOLDER, is_finished, write_cell
from studies.table2.settings import Cell, cells

Task = tuple[Cell, int]


def measured(tasks: Sequence[Task], processes: int) -> Iterator[tuple[Task, Measurement]]:
    """The measurements as they come in; with one process, in this one."""
    if processes == 1:
        yield from ((task, measure(*task)) for task in tasks)
        return
    os.environ["TQDM_DISABLE"] = "1"  # for the processes: the only bar is this one's, which is already set up
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(measure, *task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        finally:  # a failure ends everything at once
            pool.shutdown(wait=False, cancel_futures=True)


def run(wanted: Iterable[Cell], folder: Path, processes: int = 2, num_seeds: int | None = None) -> list[str]:
    """Measure the cells that are not yet on record, and write each as soon as its last seed is there.

    Args:
        num_seeds: of every cell, instead of its own number.

    Returns:
        The names of the cells that were measured.
    """
    seeds = {cell: num_seeds or cell.num_seeds for cell in wanted}
    todo = [cell for cell in seeds if not is_finished(cell, seeds[cell], folder)]
    tasks = [(cell, seed) for cell in todo for seed in range(seeds[cell])]
    found: dict[Cell, dict[int, Measurement]] = {cell: {} for cell in todo}
    results, began = measured(tasks, processes), time.monotonic()
    for (cell, seed), measurement in progress(results, desc="experiments", unit="seed", total=len(tasks)):
        found[cell][seed] = measurement
        if len(found[cell]) == seeds[cell]:
            by_seed = found.pop(cell)
            option = f" --seeds {num_seeds}" if num_seeds else ""
            command = f"make experiments ARGS='--cells {cell.name}{option}'"
            ordered = [by_seed[seed] for seed in sorted(by_seed)]
            write_cell(cell, ordered, folder, command, time.monotonic() - began)
            began = time.monotonic()
    return [cell.name for cell in todo]


@program
def main(arguments: list[str] | None = None) -> int:
    """Train many seeds of every cell of Table 2 on recorded answers."""
    parser = argparse.ArgumentParser(prog="python -m studies.table2.run", description=main.__doc__)
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument("--seeds", type=int, help="of every cell; default: 20, of curves 10")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--output", default=FOLDER, help="default: %(default)s")
    options = parser.parse_args(arguments)
    known = cells()
    for name in options.cells or ():
        if name not in known:
            raise ValueError(f"There is no cell {name!r}; {nearest(name, known)}")
    if options.processes < 1 or (options.seeds is not None and options.seeds < 1):
        raise ValueError("--seeds and --processes have to be 1 or more.")
    wanted = [known[name] for name in options.cells or known]
    done = run(wanted, resolve_path(options.output), options.processes, options.seeds)
    print(f"{len(done)} of {len(wanted)} cells were measured, the others are on record: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
