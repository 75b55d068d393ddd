"""One progress bar: in a terminal a line that moves, in a notebook one that goes when the step is done, else a log.

A notebook that nobody watches (nbconvert, papermill) keeps nothing of it: there the log is what the process that
executes it writes to its standard error. tqdm.auto has no such log, and in the saved notebook it leaves a widget that
is gone and the text of its first moment, also with `leave=False`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LINES = {"ncols": 0, "mininterval": 3.0, "miniters": 1, "leave": True}  # of a log


class _NotebookBar(tqdm):  # type: ignore[type-arg]
    """A bar that rewrites one line of text output, and empties it at the end: a saved notebook shows no bars."""

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
        if self._handle is not None and not self.disable:
            self._handle.update({}, raw=True)
        self.disable: bool = True


class _Log(tqdm):  # type: ignore[type-arg]
    """Lines instead of one that is rewritten; each begins where another program's bar may have left off."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not self.delay or self._time() - self.start_t >= self.delay:
            self.fp.write(f"\n{msg or self}")
            self.fp.flush()
        return True


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm bar with a rate and the time left; the options are tqdm's (`desc`, `total`, `unit` ...).

    There is none where the environment variable TQDM_DISABLE is set.
    """
    options["disable"] = options.get("disable", False) or bool(os.environ.get("TQDM_DISABLE"))
    shell = sys.modules.get("IPython")
    kernel = getattr(shell.get_ipython(), "kernel", None) if shell else None
    # Who executes a notebook without looking at it answers no questions either.
    if kernel and kernel.get_parent().get("content", {}).get("allow_stdin", True):
        return _NotebookBar(items, **{"mininterval": 0.5} | options)
    if kernel:
        with contextlib.suppress(io.UnsupportedOperation):  # of a kernel that leaves the process's own alone
            options["file"] = os.fdopen(sys.stderr.fileno(), "w", encoding="utf-8", closefd=False)
    options.setdefault("file", sys.__stderr__ if kernel else sys.stderr)
    if kernel or not options["file"].isatty():
        # A step of less than 3 s has no line; one without parts has one as it begins, and one at its end.
        delay = 0.0 if options.get("total") == 1 else LINES["mininterval"]
        return _Log(items, **options | LINES | {"delay": delay})
    return tqdm(items, **{"dynamic_ncols": True, "mininterval": 0.5} | options)
