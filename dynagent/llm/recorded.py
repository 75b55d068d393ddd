"""Replies on record: with a model behind them, so that the same call is never made twice, or with none at all."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock

from dynagent.downloads import writing
from dynagent.llm.base import ChatModel, Reply, Request, check_finite
from dynagent.llm.budget import Budget
from dynagent.progress import progress
from dynagent.sources import PINNED, Source, cache_dir, computed_by, file_sha256


@dataclass
class Usage:
    """What was asked of a model since it was loaded."""

    calls: int = 0  # replies that were asked for
    distinct_calls: int = 0  # of them different ones
    model_calls: int = 0  # replies that the model computed, not found on record


class _Replies:
    """Replies by their key, and a count of what was asked for."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._asked: set[str] = set()
        self._replies: dict[str, Reply] = {}

    def _count(self, keys: list[str], distinct: set[str]) -> None:
        self.usage.calls += len(keys)
        self.usage.distinct_calls += len(distinct - self._asked)
        self._asked |= distinct

    def counts(self) -> dict[str, Any]:
        """What was counted so far, as JSON values."""
        return {"calls": self.usage.calls, "asked": sorted(self._asked)}

    def count_from(self, counts: Mapping[str, Any]) -> None:
        """Go on counting from what `counts` gave."""
        self._asked = set(counts["asked"])
        self.usage.calls, self.usage.distinct_calls = counts["calls"], len(self._asked)

    def usage_of_run(self) -> dict[str, int]:
        """Calls asked for, distinct ones, and of these the written replies and the tokens, wherever they came from."""
        replies = [self._replies[key] for key in self._asked if key in self._replies]
        return {
            "calls": self.usage.calls,
            "distinct_calls": len(replies),
            "written": sum(reply.text is not None for reply in replies),
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
        }


class Recorded(_Replies):
    """Replies from a record, and from the model where the record has none.

    The record is an append-only file of one JSON object a line, keyed by `Request.key`. A batch is a function of
    the whole list of requests; one that misses any reply is run whole, so that a resumed run computes the
    same numbers as an undisturbed one.

    Args:
        model: the model behind the record.
        path: the file; by default one for each model identity and versions of the packages, in the cache folder.
        budget: of the tokens that may be paid for, perhaps shared with other models.
    """

    def __init__(self, model: ChatModel, path: Path | None = None, budget: Budget | None = None) -> None:
        super().__init__()
        self.model = model
        self.budget = budget or Budget()
        self.identity = model.identity
        self.path = path or cache_dir() / "calls" / computed_by() / f"{model.identity}.jsonl"
        self._end = 0  # of what was read of the file, in bytes
        self._read_on()

    def reply(self, requests: Sequence[Request], desc: str = "asking the agents") -> list[Reply]:
        """Replies in the order of the requests; equal requests are one call."""
        keys = [request.key(self.identity) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        self._count(keys, set(distinct))
        if any(key not in self._replies for key in distinct):
            self.complete(self.missing(requests), desc)
        return [self._replies[key] for key in keys]

    def _read_on(self) -> None:
        """Take in what the file has gained, perhaps from another process; a key's first line counts."""
        lines, self._end = _read(self.path, self._end)
        for line in lines:
            self._replies.setdefault(line.key, line.reply)

    def missing(self, requests: Sequence[Request]) -> list[dict[str, Request]]:
        """The batches that have to be run for these requests: those in which any reply is not on record, by key."""
        self._read_on()
        distinct = {request.key(self.identity): request for request in requests}
        if self._replies.keys() >= distinct.keys():
            return []  # making batches takes time
        keys = list(distinct)
        batches = [{keys[i]: distinct[keys[i]] for i in batch} for batch in self.model.batches([*distinct.values()])]
        return [batch for batch in batches if not self._replies.keys() >= batch.keys()]

    def complete(self, batches: Sequence[dict[str, Request]], desc: str) -> None:
        """Have batches of `missing` answered, and each put on record as soon as it is; not counted as asked for."""
        num_calls, recording = sum(map(len, batches)), threading.Lock()
        with progress(total=num_calls, desc=desc, unit="call", delay=float(num_calls < 32)) as bar:

            def run(batch: dict[str, Request]) -> None:
                replies = self.budget.pay([*batch.values()], self.model.reply)
                self._check([request.origin for request in batch.values()], replies)
                with recording:
                    fresh = {key: reply for key, reply in zip(batch, replies, strict=True) if key not in self._replies}
                    _append(self.path, [self._line(batch[key], reply) for key, reply in fresh.items()])
                    self._replies |= fresh
                    self.usage.model_calls += len(batch)
                    bar.update(len(batch))

            concurrency = getattr(self.model, "concurrency", 1)  # of a server; another model takes one batch at a time
            with ThreadPoolExecutor(concurrency) as pool:
                list(pool.map(run, batches) if concurrency > 1 else map(run, batches))

    def _check(self, origins: list[tuple[str, ...]], replies: Sequence[Reply]) -> None:
        """Refuse a batch, before it is on record, if a likelihood in it is none."""
        sums = torch.tensor([sum(reply.log_probs or ()) for reply in replies])
        ids = [" ".join(origin[3:4]) or "a prompt" for origin in origins]  # an agent's origin names the question
        check_finite(sums, ids, f"The likelihoods of {self.identity}")

    def _line(self, request: Request, reply: Reply) -> dict[str, Any]:
        """A line of the record: no text of the question, but where it has an origin, that."""
        line: dict[str, Any] = {"key": request.key(self.identity)}
        if request.origin:
            line |= {"origin": list(request.origin), "origin_key": request.origin_key(self.identity)}
        return line | {name: value for name, value in asdict(reply).items() if value is not None}


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


@dataclass(frozen=True)
class _Line:
    """One reply of a record."""

    key: str
    reply: Reply
    origin: tuple[str, ...]
    origin_key: str


def _read(path: Path, start: int = 0) -> tuple[list[_Line], int]:
    """All complete lines from byte `start` on, and where they end; a torn last line (a killed writer) is dropped."""
    if not path.exists():
        return [], 0
    lines = []
    with path.open("rb") as file:
        file.seek(start)
        for text in file:
            if not text.endswith(b"\n"):
                break
            try:
                fields = json.loads(text)
                fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
                key, origin, origin_key = fields.pop("key"), fields.pop("origin", ()), fields.pop("origin_key", "")
                lines.append(_Line(key, Reply(**fields), origin, origin_key))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"{path} has a line that is no reply, at byte {start}: take it out.") from None
            start += len(text)
    return lines, start


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with writing(path.parent), FileLock(f"{path}.lock"), path.open("ab+") as file:
        _drop_torn_line(file)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut off what a killed writer left behind the last complete line."""
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
