"""Parameters: a pydantic model whose errors are one sentence, and that can be read from a notebook or a JSON file.

    concurrency: Count = 8
    token_budget: Count | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"

Such a line in a subclass of `Parameters` is all that a new parameter needs.
"""

from __future__ import annotations

import ast
import difflib
import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

# The description is the middle of a sentence: "batch_size has to be a whole number of 1 or more, not 0."
# Whole numbers fit a generator's seed.
Count = Annotated[int, Field(ge=1, lt=2**32, description="a whole number of 1 or more")]
CountOrZero = Annotated[int, Field(ge=0, lt=2**32, description="a whole number of 0 or more")]
Positive = Annotated[float, Field(gt=0, description="a finite number above 0")]
PositiveOrZero = Annotated[float, Field(ge=0, description="a finite number of 0 or more")]
EdgeProbability = Annotated[
    float,
    Field(
        gt=0,
        lt=1,
        description="a finite number strictly between 0 and 1 (a sure edge cannot be learned about)",
    ),
]
_DESCRIPTIONS: dict[Any, str] = {str: "a text that is not empty", bool: "true or false", NoneType: "None"}
_WORDS = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True)
class OneOf:
    """A name that is in a table; `Annotated[str, OneOf(TABLE)]` is for tables what `Literal` is for a few names."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.literal_schema([*self.names])


class Parameters(BaseModel):
    """The base of models whose fields are parameters: what is wrong with one is found when it is made.

    Where a field takes no text, a text is read as what it stands for: "true", "1e-3", "[1, 2]" or "None", as
    papermill makes of YAML and as people write in JSON. A field that takes texts keeps them.

    Raises:
        ValueError: in one sentence that names a parameter, and says what it may be.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, str_min_length=1, validate_default=True
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"laptop": {}}

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(_sentence(type(self), values, error)) from None

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_text(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """The field's value; a text that the field does not take is read, and then has to be one that it does."""
        try:
            valid = validate(value)
        except ValidationError as error:
            try:
                return validate(_reading(value))
            except ValueError:  # also pydantic's own
                raise error from None
        if _stands_for_none(value) and any(kind.type is NoneType for kind in _kinds(cls, str(info.field_name))):
            raise ValueError(
                f"{info.field_name} {value!r} may be a name or nothing: write null in JSON and YAML, None in Python."
            )
        return valid

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], besides: Collection[str] = ()) -> Self:
        """The preset's values, overridden by the parameters that are not None.

        Args:
            besides: names that may be there and are somebody else's: they are not read.

        Raises:
            ValueError: for an unknown name or preset (with the nearest known one) or a bad value.
        """
        known = [*cls.model_fields, *besides]
        for name in parameters:
            if name not in known:
                raise ValueError(f"There is no parameter {name!r}; {nearest(name, known)}")
        given = {name: value for name, value in parameters.items() if name not in besides and cls._says(name, value)}
        preset = given.get("preset", "laptop")
        if preset not in tuple(cls.PRESETS):
            raise ValueError(f"There is no preset {preset!r}; {nearest(preset, cls.PRESETS)}")
        return cls(**{**cls.PRESETS[preset], **given})

    @classmethod
    def _says(cls, name: str, value: Any) -> bool:
        """Whether a value says anything: None does not, nor does a text that can only stand for it."""
        takes_it = any(kind.type is str and (not kind.names or value in kind.names) for kind in _kinds(cls, name))
        return value is not None and not (_stands_for_none(value) and not takes_it)

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any], besides: Collection[str] = ()) -> Self:
        """The parameters of a notebook, from its `globals()`.

        papermill only warns of a name that the parameters cell does not have, and goes on with the defaults; here
        it is an error.

        Args:
            besides: parameters of the notebook that are none of these. `Parameters.from_notebook(globals(), names)`
                only looks for names that the notebook does not have.
        """
        parameters = {name: namespace[name] for name in cls.model_fields if name in namespace}
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
        return self.model_dump()

    def replace(self, **changes: Any) -> Self:
        """The same parameters but for the changes, checked like new ones."""
        return type(self)(**{**self.to_dict(), **changes})


def nearest(name: object, known: Collection[str]) -> str:
    """A hint for an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}Known: {', '.join(sorted(known))}."


def _reading(value: Any) -> Any:
    """What a text stands for: a word for true, false or nothing, else what JSON or Python reads in it.

    A text that they read differently from YAML, such as 010, is one that neither reads.

    Raises:
        ValueError: if it is not a text, or stands for nothing else.
    """
    if not isinstance(value, str):
        raise ValueError("There is nothing to read.")
    text = value.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python's parser, about the text
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{value!r} cannot be read.") from error


def _stands_for_none(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("none", "null")


class _Kind(NamedTuple):
    """One alternative of what a field may be: its type, the only names that it may be if there are some, and words."""

    type: Any
    names: tuple[Any, ...]
    words: str


def _kinds(model: type[Parameters], name: str) -> list[_Kind]:
    """The alternatives of a field."""
    field = model.model_fields[name]
    if get_origin(field.annotation) in (Union, UnionType):
        return [_kind(annotation) for annotation in get_args(field.annotation)]
    return [_kind(field.annotation, field, *field.metadata)]


def _kind(annotation: Any, *metadata: Any) -> _Kind:
    if get_origin(annotation) is Annotated:
        annotation, metadata = annotation.__origin__, annotation.__metadata__
    names = get_args(annotation) if get_origin(annotation) is Literal else ()
    names += tuple(name for part in metadata if isinstance(part, OneOf) for name in part.names)
    if names:
        return _Kind(str, names, " or ".join(map(repr, names)))
    described = (part.description for part in metadata if isinstance(part, FieldInfo) and part.description)
    return _Kind(annotation, (), next(described, _DESCRIPTIONS.get(annotation, f"a valid {annotation}")))


def _sentence(model: type[Parameters], values: Mapping[str, Any], error: ValidationError) -> str:
    """The first thing that is wrong: which parameter, what it may be, what it is, and sometimes how to write it."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # a validator's own sentence
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    if name not in model.model_fields:
        return f"There is no parameter {name!r}; {nearest(name, model.model_fields)}"
    kinds = _kinds(model, name)
    if name not in values:
        return f"{name} has to be given: {_or(kinds)}."
    value = values[name]
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    if any(kind.names for kind in kinds) and all(kind.names or kind.type is NoneType for kind in kinds):
        names = [str(known) for kind in kinds for known in kind.names or (None,)]
        return f"{name} {shown} is not known{_how_to_write(value, kinds)}; {nearest(value, names)}"
    return f"{name} has to be {_or(kinds)}, not {shown}{_how_to_write(value, kinds)}."


def _or(kinds: list[_Kind]) -> str:
    return ", or ".join(kind.words for kind in kinds)


def _how_to_write(value: Any, kinds: list[_Kind]) -> str:
    """The end of a sentence about a value that is written in another type's way; mostly empty."""
    types = {kind.type for kind in kinds}
    if isinstance(value, bool | int | float) and str in types and not {int, float} & types:
        return " (a text is in quotes, and papermill takes one as -r)"
    try:
        number = _reading(value) if isinstance(value, str) else value
    except ValueError:
        number = None
        if {int, float} & types and any(character.isdigit() for character in value):
            return " (write it like 1000 or 0.001)"
    if int in types and isinstance(number, float) and number.is_integer():
        return f" (write {number:.0f})"
    return ""
