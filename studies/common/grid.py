"""Many seeds over several processes."""

from __future__ import annotations

import os

import torch


def side_by_side() -> None:
    """In each process: one thread, since they share the cores, and no bar, since the caller shows one for all."""
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
