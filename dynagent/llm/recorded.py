"""A model whose replies are remembered, in memory and on disk: the same call is never made twice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from dynagent.llm.base import ChatModel, Reply, Request
from dynagent.progress import progress
from dynagent.sources import cache_dir


@dataclass
class Usage:
    """What was asked of a model since it was loaded."""

    calls: int = 0  # replies that were asked for
    distinct_calls: int = 0  # of them different ones
    model_calls: int = 0  # replies that the model computed, not found on record


class Recorded:
    """Replies from a record, and from the model where the record has none.

    The record is an append-only file of one JSON object a line, keyed by `Request.key`. A batch is a function of
    the whole list of requests; one that misses any reply is run whole, so that a resumed run computes the
    same numbers as an undisturbed one.

    Args:
        model: the model behind the record.
        path: the file; by default one for each model identity in the cache folder.
    """

    def __init__(self, model: ChatModel, path: Path | None = None) -> None:
        self.model = model
        self.identity = model.identity
        self.path = path or cache_dir() / "calls" / f"{model.identity}.jsonl"
        self.usage = Usage()
        self._asked: set[str] = set()
        self._replies: dict[str, Reply] = {}
        self._end = 0  # of what was read of the file, in bytes
        self._read_on()

    def reply(self, requests: Sequence[Request], desc: str = "asking the agents") -> list[Reply]:
        """Replies in the order of the requests; equal requests are one call."""
        keys = [request.key(self.identity) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        self._count(keys, set(distinct))
        if any(key not in self._replies for key in distinct):
            self._complete(distinct, desc)
        return [self._replies[key] for key in keys]

    def _read_on(self) -> None:
        """Take in what the file has gained, perhaps from another process; a key's first line counts."""
        records, self._end = _read(self.path, self._end)
        for key, reply in records:
            self._replies.setdefault(key, reply)

    def _complete(self, distinct: dict[str, Request], desc: str) -> None:
        self._read_on()
        keys = list(distinct)
        batches = self.model.batches(list(distinct.values()))
        missing = sum(any(keys[i] not in self._replies for i in batch) * len(batch) for batch in batches)
        with progress(total=missing, desc=desc, unit="call", disable=missing < 32) as bar:
            for batch in batches:
                if all(keys[i] in self._replies for i in batch):
                    continue
                replies = self.model.reply([distinct[keys[i]] for i in batch])
                fresh = {
                    keys[i]: reply for i, reply in zip(batch, replies, strict=True) if keys[i] not in self._replies
                }
                _append(self.path, [self._line(distinct[key], reply) for key, reply in fresh.items()])
                self._replies |= fresh
                self.usage.model_calls += len(batch)
                bar.update(len(batch))

    def _line(self, request: Request, reply: Reply) -> dict[str, Any]:
        """A line of the record: no text of the question, but where it has an origin, that."""
        line: dict[str, Any] = {"key": request.key(self.identity)}
        if request.origin:
            line |= {"origin": list(request.origin), "origin_key": request.origin_key(self.identity)}
        return line | {name: value for name, value in asdict(reply).items() if value is not None}

    def _count(self, keys: list[str], distinct: set[str]) -> None:
        self.usage.calls += len(keys)
        self.usage.distinct_calls += len(distinct - self._asked)
        self._asked |= distinct

    def usage_of_run(self) -> dict[str, int]:
        """Calls asked for, distinct ones, and the tokens of the distinct ones, wherever their replies came from."""
        replies = [self._replies[key] for key in self._asked if key in self._replies]
        return {
            "calls": self.usage.calls,
            "distinct_calls": len(replies),
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
        }


def _read(path: Path, start: int) -> tuple[list[tuple[str, Reply]], int]:
    """All complete lines from byte `start` on, and where they end; a torn last line (a killed writer) is dropped."""
    if not path.exists():
        return [], 0
    records = []
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break
            start += len(line)
            fields = json.loads(line)
            fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
            key, _, _ = fields.pop("key"), fields.pop("origin", None), fields.pop("origin_key", None)
            records.append((key, Reply(**fields)))
    return records, start


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with FileLock(f"{path}.lock"), path.open("ab+") as file:
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
