"""One progress bar for terminals and notebooks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


class _NotebookBar(tqdm):  # type: ignore[type-arg]
    """A bar that rewrites one line of text output, so that a saved notebook keeps just its final state."""

    _handle: Any = None

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        from IPython.display import display

        line = {"text/plain": msg or str(self)}
        if self._handle is None:
            self._handle = display(line, raw=True, display_id=True)
        else:
            self._handle.update(line, raw=True)
        return True

    def close(self) -> None:
        if not self.disable:
            self.refresh()
            self.disable: bool = True


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm bar with a rate and the time left; the options are tqdm's (`desc`, `total`, `unit` ...).

    There is none where the environment variable TQDM_DISABLE is set.
    """
    shell = sys.modules.get("IPython")
    kernel = shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None
    options = {"dynamic_ncols": True, "mininterval": 0.5} | options
    options["disable"] = options.get("disable", False) or bool(os.environ.get("TQDM_DISABLE"))
    return (_NotebookBar if kernel else tqdm)(items, **options)
