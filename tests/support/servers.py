"""Servers for tests: an imitation that speaks the OpenAI protocol, the real `transformers serve`, and a bad line to it.

The imitation answers from a model that runs in this process, so that its numbers can be compared; what it does not do
is to serve. Children are killed whatever happens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from dynagent.llm.loading import faster_precision

Answer = tuple[int, Any]  # status and body: JSON, or bytes as they are


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        self.server.owner.answer(self, body)  # type: ignore[attr-defined]

    def log_message(self, *arguments: Any) -> None:
        pass


class Imitation:
    """An HTTP server on a loopback port that answers `/v1/...` by a function of path and body.

    Attributes:
        calls: the bodies that came, with path and headers.
        most_at_once: calls that were under way at the same time.
    """

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer | None], seconds: float = 0.0) -> None:
        self._of = answer
        self._seconds = seconds
        self._lock = threading.Lock()
        self._now = 0
        self.most_at_once = 0
        self.calls: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def name(self, model: str = "tiny") -> str:
        return f"openai:{self.url}#{model}"

    def completions(self) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["path"].endswith("completions")]

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.calls.append({"path": handler.path, "headers": dict(handler.headers), "body": body})
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            time.sleep(self._seconds)
            answer = self._of(handler.path, body)
        finally:
            with self._lock:
                self._now -= 1
        if answer is None:  # hang up
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        status, content = answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        with contextlib.suppress(ConnectionError):
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)

    def wait_until_idle(self, patience: float = 120.0) -> None:
        until = time.monotonic() + patience
        while self._now:
            assert time.monotonic() < until, f"{self._now} calls are still under way"
            time.sleep(0.02)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def imitation(answer: Callable[[str, dict[str, Any]], Answer | None], seconds: float = 0.0) -> Iterator[Imitation]:
    server = Imitation(answer, seconds)
    try:
        yield server
    finally:
        server.close()


def usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def chat_reply(text: str, read: int = 7, written: int = 2, top: dict[str, float] | None = None) -> dict[str, Any]:
    """The body of a chat completion, with log-probabilities of the first token where they are given."""
    tokens = [{"token": token, "logprob": value, "bytes": None} for token, value in (top or {}).items()]
    first = [tokens[0] | {"top_logprobs": tokens}] if tokens else None
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    choice["logprobs"] = {"content": first} if first else None
    ids = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny"}
    return ids | {"choices": [choice], "usage": usage(read, written)}


def models_reply(*names: str, **more: Any) -> dict[str, Any]:
    models = [{"id": name, "object": "model", "created": 1, "owned_by": "imitation", **more} for name in names]
    return {"object": "list", "data": models}


class ModelBehind:
    """Answers as vLLM would, with the log-probabilities of a `TransformersModel`: echoed prompts, likeliest letters."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._lock = threading.Lock()

    def __call__(self, path: str, body: dict[str, Any]) -> Answer:
        with self._lock, torch.inference_mode():
            if path.endswith("/models"):
                return 200, models_reply("tiny", root="weights/of/tiny", max_model_len=2048)
            return 200, self._chat(body) if "chat" in path else self._echo(body)

    def _echo(self, body: dict[str, Any]) -> dict[str, Any]:
        assert (body["echo"], body["max_tokens"]) == (True, 1)
        choices, read = [], 0
        for index, prompt in enumerate(body["prompt"]):
            ids = torch.tensor([self.model._prompt_ids(prompt)])
            log_probs = self.model.model(ids).logits[0].float().log_softmax(-1)
            echoed = log_probs[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
            scores = [None, *echoed, float(log_probs[-1].max())]
            tokens = self.model.tokenizer.convert_ids_to_tokens([*ids[0].tolist(), int(log_probs[-1].argmax())])
            logprobs = {
                "tokens": tokens,
                "token_logprobs": scores,
                "top_logprobs": None,
                "text_offset": [0] * len(tokens),
            }
            choices.append({"index": index, "text": prompt, "logprobs": logprobs, "finish_reason": "length"})
            read += ids.shape[1]
        ids = {"id": "1", "object": "text_completion", "created": 1, "model": "tiny"}
        return ids | {"choices": choices[::-1], "usage": usage(read, len(choices))}  # in any order

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = tuple((message["role"], message["content"]) for message in body["messages"])
        ids = torch.tensor([self.model._prompt_ids(chat)])
        log_probs = self.model.model(ids).logits[0, -1].float().log_softmax(-1)
        values, likeliest = log_probs.topk(body.get("top_logprobs", 1))
        tokens = [self.model.tokenizer.decode([i]) for i in likeliest.tolist()]
        top = dict(zip(tokens, values.tolist(), strict=True)) if body.get("logprobs") else None
        return chat_reply(tokens[0], ids.shape[1], 1, top)


# --- the real one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TransformersServe:
    """`transformers serve` of a model's folder in a process of its own, on a loopback port."""

    def __init__(self, folder: str, port: int, log: Path) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}/v1"
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience: float = 400.0) -> None:
        program = str(Path(sys.executable).with_name("transformers"))
        command = [program, "serve", self.folder, "--port", str(self.port), "--host", "127.0.0.1", "--device", "cpu"]
        command += ["--dtype", faster_precision("cpu")]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"transformers serve ended: {self.log.read_text(errors='replace')[-2000:]}")
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"transformers serve is not up after {patience:.0f} s: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def transformers_serve(folder: str, log: Path) -> Iterator[TransformersServe]:
    """Started in the block, as often as it is killed there; ended with it."""
    server = TransformersServe(folder, free_port(), log)
    try:
        yield server
    finally:
        server.kill()


class Line:
    """A proxy to a server that delays, cuts off and garbles replies, as a function of a completion's number says.

    Attributes:
        answered: completions that the server computed and the proxy read, by their body.
    """

    def __init__(self, target: str, fault: Callable[[int], str] = lambda number: "", delay: float = 0.0) -> None:
        self._target = urlsplit(target)
        self._fault, self._delay = fault, delay
        self._lock = threading.Lock()
        self._count = 0
        self.answered: list[str] = []
        self.faults: list[str] = []
        self._server = Imitation(self._forward)
        self.url = self._server.url
        self.wait_until_idle = self._server.wait_until_idle

    def _forward(self, path: str, body: dict[str, Any]) -> Answer | None:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=600)
        try:
            connection.request(
                "POST" if body else "GET",
                path,
                json.dumps(body) if body else None,
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            status, data = response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None  # the server is gone
        if not path.endswith("completions"):
            return status, data
        with self._lock:
            number, self._count = self._count, self._count + 1
            if status == 200:
                self.answered.append(json.dumps(body, sort_keys=True))
            fault = self._fault(number)
            self.faults.append(fault)
        if fault == "delay":
            time.sleep(self._delay)
        if fault == "garble":
            return status, data[: len(data) // 2] + b"\xff\x00}{"
        return None if fault == "cut" else (status, data)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.close()
