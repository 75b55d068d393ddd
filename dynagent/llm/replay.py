"""Replies on record, replayed without the model that gave them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dynagent.artefacts.sources import PINNED, Source, file_sha256
from dynagent.llm.base import Reply, Request
from dynagent.llm.store import _Line, _read, _Replies


class RecordedAnswers(_Replies):
    """Replies from a record and no model: found by the requests' origin, so that no question's text is needed.

    Args:
        path: a file that `Recorded` has written for agents' requests; its name is the model's identity.
        command: what records missing answers; by default `make record` with options that fit the question.

    Raises:
        ValueError: for a file that is missing, malformed or another model's, or that contradicts itself; and where a
            reply is asked for that it lacks.
    """

    def __init__(self, path: Path, command: str = "") -> None:
        super().__init__()
        if not path.exists():
            raise ValueError(f"There are no recorded answers {path}: `{command or 'make record'}` makes them.")
        self.path = path
        self.command = command
        self.identity = path.stem
        self._versions: dict[tuple[str, ...], str] = {}  # of the prompt, by the rest of the origin
        for line in _read(path)[0]:
            if line.origin:
                self._take(line)

    @property
    def source(self) -> Source:
        """The file of the record."""
        return recorded_source(self.path)

    def reply(self, requests: Sequence[Request], desc: str = "") -> list[Reply]:
        """Replies in the order of the requests; equal requests are one call."""
        keys = [request.origin_key(self.identity) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        missing = [request for key, request in distinct.items() if key not in self._replies]
        if missing:
            raise ValueError(self._explain(missing))
        self._count(keys, set(distinct))
        return [self._replies[key] for key in keys]

    def _take(self, line: _Line) -> None:
        # A written reply's key also holds its temperature, which is not on the line.
        if line.reply.text is None and line.origin_key != Request("", origin=line.origin).origin_key(self.identity):
            raise ValueError(f"{self.path} holds answers of another model than its name says: give it its own name.")
        if self._replies.setdefault(line.origin_key, line.reply) != line.reply:
            raise ValueError(f"{self.path} has two different replies to {', '.join(line.origin)}: take one out.")
        version, rest = _version_and_rest(line.origin)
        self._versions[rest] = version

    def _explain(self, missing: list[Request]) -> str:
        """Why replies are missing, and which command records them."""
        mode, kind, version, question, _ = missing[0].origin
        found = self._versions.get(_version_and_rest(missing[0].origin)[1])
        why = f"were recorded with another version of the prompt ({found}, not {version})" if found else "are missing"
        asked = f"(mode {mode!r}, asked for the {kind} option)" if not self.command else f"(asked to {mode})"
        command = self.command or _record_command("agent", model_name(self.path), f" --agent-mode {mode}")
        first = f"the first to question {question} {asked}"
        return f"{len(missing)} answers {why} in {self.path}, {first}: `{command}` records them."


def _version_and_rest(origin: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """An agent's origin is its mode, the kind of option that it asks for, the prompt's version, question, heard."""
    return origin[2], (*origin[:2], *origin[3:])


def model_name(path: Path) -> str:
    """The model whose answers or features a file holds: the file's name without hash and precision."""
    return path.stem.rsplit("-", 2)[0]


def recorded_file(folder: Path, role: str, model: str) -> Path:
    """The file with the answers (role "agent") or the features (role "edge") of a model: alias, hub id or folder.

    Raises:
        ValueError: if not exactly one file in the folder is this model's.
    """
    files = sorted(folder.glob({"agent": "*.jsonl", "edge": "*.safetensors"}[role]))
    files = [file for file in files if len(file.stem.rsplit("-", 2)) == 3]
    name = re.sub(r"[^a-z0-9.]+", "-", model.lower())
    pinned = f"-{PINNED[model].sha256[:12]}-" if model in PINNED else ""
    found = [file for file in files if model_name(file) == name and pinned in file.name]
    if not found:
        known = ", ".join(model_name(file) for file in files) or "none"
        raise ValueError(
            f"{folder} has no record of the {role} LLM {model} (it has: {known}): name one of them, or "
            f"`{_record_command(role, model)}` adds it."
        )
    if len(found) > 1:
        raise ValueError(f"{' and '.join(file.name for file in found)} are both {model}: keep one of them in {folder}.")
    return found[0]


def recorded_source(path: Path) -> Source:
    """A file of answers or features as a run's source."""
    name = model_name(path)
    licence = PINNED[name].licence if name in PINNED else "unknown"
    return Source(name, "record", str(path), None, file_sha256(path), licence)


def _record_command(role: str, model: str, more: str = "") -> str:
    return f'make record ARGS="--cmmlu FOLDER --{role}-llm {model}{more}"'
