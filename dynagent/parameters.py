"""Parameters: what each may be stands in its annotation, and one reader checks them all.

    concurrency: Count = 8
    token_budget: Count | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"

Such a line in a dataclass on `Parameters` is all that a new parameter needs.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Rule:
    """What a parameter may be: in words, and as a test."""

    text: str
    holds: Callable[[Any], bool]


def whole_number(least: int) -> Rule:
    """Whole numbers from the least one up, that fit a generator's seed."""
    return Rule(
        f"a whole number of {least} or more",
        lambda n: isinstance(n, int) and not isinstance(n, bool) and least <= n < 2**32,
    )


def real_number(bounds: str, within: Callable[[float], bool]) -> Rule:
    """Finite numbers within bounds, which are given as the end of a sentence and as a test."""
    return Rule(f"a finite number {bounds}", lambda x: isinstance(x, float) and math.isfinite(x) and within(x))


Count = Annotated[int, whole_number(1)]
CountOrZero = Annotated[int, whole_number(0)]
Positive = Annotated[float, real_number("above 0", lambda x: x > 0)]
PositiveOrZero = Annotated[float, real_number("of 0 or more", lambda x: x >= 0)]
EdgeProbability = Annotated[
    float, real_number("strictly between 0 and 1 (a sure edge cannot be learned about)", lambda x: 0 < x < 1)
]
_PLAIN = {
    str: Rule("a text that is not empty", lambda value: isinstance(value, str) and value != ""),
    bool: Rule("true or false", lambda value: isinstance(value, bool)),
    NoneType: Rule("None", lambda value: value is None),
}


@dataclass(frozen=True)
class Parameters:
    """The base of dataclasses whose fields are parameters: what is wrong with one is found when it is made.

    Raises:
        ValueError: in one sentence that names a parameter, and says what it may be.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"laptop": {}}

    def __post_init__(self) -> None:
        annotations = get_type_hints(type(self), include_extras=True)
        for name in (field.name for field in fields(self)):
            annotation, value = annotations[name], getattr(self, name)
            kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
            if type(value) is int and any(getattr(kind, "__origin__", None) is float for kind in kinds):
                value = float(value)  # 1 and 1.0 are the same run
                object.__setattr__(self, name, value)
            rules = [_rule(kind) for kind in kinds]
            if any(rule.holds(value) for rule in rules):
                continue
            if get_origin(annotation) is Literal:
                raise ValueError(f"{name} {value!r} is not known; {nearest(value, get_args(annotation))}")
            raise ValueError(f"{name} has to be {', or '.join(rule.text for rule in rules)}, not {value!r}.")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], besides: Collection[str] = ()) -> Self:
        """The preset's values, overridden by the parameters that are not None.

        Args:
            besides: names that may be there and are somebody else's: they are not read.

        Raises:
            ValueError: for an unknown name or preset (with the nearest known one) or a bad value.
        """
        known = [*(field.name for field in fields(cls)), *besides]
        for name in parameters:
            if name not in known:
                raise ValueError(f"There is no parameter {name!r}; {nearest(name, known)}")
        given = {name: value for name, value in parameters.items() if value is not None and name not in besides}
        preset = given.get("preset", "laptop")
        if preset not in tuple(cls.PRESETS):
            raise ValueError(f"There is no preset {preset!r}; {nearest(preset, cls.PRESETS)}")
        return cls(**{**cls.PRESETS[preset], **given})

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any], besides: Collection[str] = ()) -> Self:
        """The parameters of a notebook, from its `globals()`.

        papermill only warns of a name that the parameters cell does not have, and goes on with the defaults; here
        it is an error.

        Args:
            besides: parameters of the notebook that are none of these. `Parameters.from_notebook(globals(), names)`
                only looks for names that the notebook does not have.
        """
        parameters = {field.name: namespace[field.name] for field in fields(cls) if field.name in namespace}
        for source in namespace.get("In", []):
            if source.startswith("# Parameters"):  # papermill's own mark on the cell that it adds
                nodes = ast.walk(ast.parse(source))
                assigned = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
                parameters |= {name: namespace[name] for name in assigned}
        return cls.from_parameters(parameters, besides)

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """The parameters in a JSON file with one object."""
        try:
            parameters = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {path}: give a JSON file with a run's parameters.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON ({error}).") from None
        if not isinstance(parameters, dict):
            raise ValueError(f"{path} has to hold one JSON object of parameters.")
        return cls.from_parameters(parameters)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def nearest(name: object, known: Collection[str]) -> str:
    """A hint for an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}Known: {', '.join(sorted(known))}."


def _rule(kind: Any) -> Rule:
    """What one alternative of an annotation allows."""
    if get_origin(kind) is Annotated:
        (rule,) = kind.__metadata__
        return rule
    if get_origin(kind) is Literal:
        return Rule(" or ".join(map(repr, get_args(kind))), get_args(kind).__contains__)
    return _PLAIN[kind]
