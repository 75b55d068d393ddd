"""Replies on record: with a model behind them, so that the same call is never made twice, or with none at all."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock

from dynagent.artefacts.downloads import writing
from dynagent.artefacts.sources import cache_dir, computed_by
from dynagent.llm.base import ChatModel, Reply, Request, check_finite
from dynagent.llm.budget import Budget
from dynagent.progress import progress

log = logging.getLogger(__name__)

MOST_REFUSED = 0.05  # of the calls
FEW = 20  # calls, of which one that is refused is no reason to stop


class RefusedTooOftenError(ValueError):
    """A content filter refuses too many questions for the answers to say something about the team."""


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
        refused = sum(reply.is_refused for reply in replies)
        cut_off = sum(reply.is_cut_off for reply in replies)
        return {
            "calls": self.usage.calls,
            "distinct_calls": len(replies),
            "written": sum(reply.text is not None for reply in replies),
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
            **({"refused": refused} if refused else {}),
            **({"cut_off": cut_off} if cut_off else {}),
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
        ask_again: leave the replies that are there aside, and begin a new file: the model has changed and its name has
            not. Of several processes the first one moves the file.
        request_changes: fields of every request that are other than the agents set them.

    Raises:
        RefusedTooOftenError: from `reply`, if a filter refuses more than `MOST_REFUSED` of what is asked.
    """

    def __init__(
        self,
        model: ChatModel,
        path: Path | None = None,
        budget: Budget | None = None,
        ask_again: bool = False,
        request_changes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.budget = budget or Budget()
        self.identity = model.identity
        self.path = path or cache_dir() / "calls" / computed_by() / f"{model.identity}.jsonl"
        self._request_changes = dict(request_changes or {})
        self._warned = False
        self._end = 0  # of what was read of the file, in bytes
        if not ask_again:
            self._read_on()
        elif os.environ.get("RANK", "0") == "0":  # the others read when they first need something
            _lay_aside(self.path)

    @property
    def num_on_record(self) -> int:
        """Replies that this process has read or written."""
        return len(self._replies)

    def reply(self, requests: Sequence[Request], desc: str = "asking the agents") -> list[Reply]:
        """Replies in the order of the requests; equal requests are one call."""
        requests = self._changed(requests)
        keys = [request.key(self.identity) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        self._count(keys, set(distinct))
        if any(key not in self._replies for key in distinct):
            self.complete(self._missing(requests), desc)
        self._check_refused()
        self._warn_of_empty_replies()
        return [self._replies[key] for key in keys]

    def _changed(self, requests: Sequence[Request]) -> Sequence[Request]:
        return (
            [replace(request, **self._request_changes) for request in requests] if self._request_changes else requests
        )

    def _check_refused(self) -> None:
        """Refuse to go on where a filter refuses too much of what was asked so far."""
        replies = [self._replies[key] for key in self._asked if key in self._replies]
        refused = sum(reply.is_refused for reply in replies)
        if refused > MOST_REFUSED * max(len(replies), FEW):
            raise RefusedTooOftenError(
                f"A content filter refused {refused:,} of {len(replies):,} calls to {self.identity}, and a run stops "
                f"at more than {MOST_REFUSED:.0%}: take these questions out, or use another model (the replies are in "
                f"{self.path})."
            )

    def _warn_of_empty_replies(self) -> None:
        """Say once that replies end before they say anything, and what to do."""
        if self._warned:
            return
        replies = [self._replies[key] for key in self._asked if key in self._replies]
        empty = sum(reply.is_cut_off and not (reply.text or "").strip() for reply in replies)
        if empty > MOST_REFUSED * max(len(replies), FEW):
            self._warned = True
            log.warning(
                "%s of %s replies of %s are cut off before an answer (finish_reason length, no text): the model thinks "
                "first. Set max_new_tokens higher, or switch its thoughts off with request_options, such as "
                '{"chat_template_kwargs": {"enable_thinking": false}}.', empty, len(replies), self.identity,
            )  # fmt: skip

    def _read_on(self) -> None:
        """Take in what the file has gained, perhaps from another process; a key's first line counts."""
        lines, self._end = _read(self.path, self._end)
        for line in lines:
            self._replies.setdefault(line.key, line.reply)

    def missing(self, requests: Sequence[Request]) -> list[dict[str, Request]]:
        """The batches that have to be run for these requests: those in which any reply is not on record, by key."""
        return self._missing(self._changed(requests))

    def _missing(self, requests: Sequence[Request]) -> list[dict[str, Request]]:
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


def _lay_aside(path: Path) -> None:
    """Give a record another name, under which it stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            aside = path.with_name(f"{path.stem}.until-{datetime.now():%Y%m%d-%H%M%S-%f}.jsonl")
            path.rename(aside)
            log.warning("All calls are made anew; the replies so far are in %s.", aside)


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
