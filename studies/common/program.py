"""What all programs of the experiments share: bad input ends in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


def program(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A program's function that writes what is wrong to stderr, and then gives the exit status 2."""

    @wraps(main)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except (ValueError, OSError, FloatingPointError) as error:
            sys.stderr.write(f"dynagent: {error}\n")
            return 2

    return run
