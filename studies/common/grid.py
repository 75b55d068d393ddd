"""Many settings with many seeds over several processes; what has been measured before is read."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynagent.progress import progress
from studies.common.outcome_files import read_outcome, write_outcome


@dataclass(frozen=True)
class Job:
    """One call of a function of a module, and the file that remembers what came of it."""

    measure: Callable[..., Any]
    arguments: tuple[Any, ...]
    path: Path


def measured(jobs: Sequence[Job], processes: int, description: str, *, share_cores: bool = True) -> list[Any]:
    """The outcomes of all jobs, in their order. Each is written as soon as it is there.

    Args:
        processes: over which the jobs are spread; with 1, or inside a worker of the workflow, all run in this one.
        share_cores: give each job one thread, whatever the number of processes, so that no sum depends on it.
    """
    missing = [job for job in jobs if not job.path.exists()]
    is_worker = multiprocessing.current_process().name != "MainProcess"
    finished = _here(missing, share_cores) if processes == 1 or is_worker else _in_processes(missing, processes)
    for job, outcome in progress(finished, desc=description, unit="run", total=len(missing)):
        write_outcome(job.path, outcome)
    return [read_outcome(job.path, job.measure) for job in jobs]


def _here(jobs: Sequence[Job], share_cores: bool) -> Iterator[tuple[Job, Any]]:
    """Jobs with their outcomes, one after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if share_cores else threads)
    try:
        for job in jobs:
            yield job, job.measure(*job.arguments)
    finally:
        torch.set_num_threads(threads)


def _in_processes(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Any]]:
    """Jobs with their outcomes, as they come in."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_share_cores) as pool:
        jobs_of_futures = {pool.submit(job.measure, *job.arguments): job for job in jobs}
        try:
            for future in as_completed(jobs_of_futures):
                yield jobs_of_futures[future], future.result()
        finally:  # a failure ends everything at once
            pool.shutdown(wait=False, cancel_futures=True)


def _share_cores() -> None:
    """In each process: one thread, since they share the cores, and no bar, since the caller shows one for all."""
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
