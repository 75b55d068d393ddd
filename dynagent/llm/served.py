"""A language model behind an OpenAI-compatible server: vLLM, Ollama, `transformers serve` or a hosted one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import product
from typing import Any

from dynagent.artefacts.sources import Source
from dynagent.llm.base import Reply, Request
from dynagent.llm.completions import (
    SHOWN,
    RefusedError,
    UnreadableError,
    echoed,
    first_candidates,
    is_refusal,
    is_thought,
    letter_scores,
    parse,
    refused,
    written,
)
from dynagent.llm.connection import key_from, make_client, proxy_variable
from dynagent.llm.endpoints import endpoint

log = logging.getLogger(__name__)

LIKELIEST = {"logprobs": True, "top_logprobs": 20}  # first tokens of a reply: the most that the protocol allows
FEWEST = 5  # of them, the most that some servers allow
READINGS = 3  # of a reply that cannot be read
GARBLED = (ValueError, TypeError, AttributeError, IndexError)  # what reading a list of models may raise
STATED = ("root", "owned_by", "max_model_len")  # of what /v1/models says, that which holds from one start to the next
LENGTHS = ("max_tokens", "max_completion_tokens")  # names of the bound of a reply
DISPENSABLE = ("temperature", "top_p", "seed")  # left out where a server refuses them


class ServedModel:
    """What answers under `openai:<base_url>#<model>`; which weights that are, a server may say but cannot prove.

    - Options are scored by the tokens that follow the prompt, from the endpoint `completions` with `echo` (vLLM has
      it); a server without is a ValueError.
    - Letters are scored by the candidates for the first token of the chat's reply, see `letter_scores`. Where the
      server gives none, where fewer than two letters are among them, or where the model first thinks, the reply is
      text, written greedily.
    - Other replies are drawn with top_p = .9 and a seed of their own; the protocol has no top_k.
    - What a server refuses (status 400 or 422) is asked in another form, which is remembered: the system's text is put
      before the user's, the bound of tokens gets its other name, fewer candidates are asked for, and a temperature, a
      top_p or a seed that the refusal names is left out, with a warning. A reply that was begun for the model is
      written whole, and its beginning taken off.
    - A question that a content filter refuses has a reply that says so, `Reply.is_refused`.

    The client tries again, after .5 to 8 seconds or as the server says, where a connection is refused or cut, after a
    time-out, and after the statuses 408, 409, 429 and 5xx. A call that timed out may have been computed, and be charged
    for. An answer that holds no reply is asked for again at once.

    A call that gets no reply in the end, be it for time-outs, is an error that stops the run, which can be gone on
    with. It is never counted as an answer, since it tells of the server and not of the agent.

    Args:
        name: `openai:<base_url>#<model>`.
        concurrency: calls under way at a time.
        timeout: seconds that a call may take, the server's queue included.
        retries: of one call.

    Raises:
        ValueError, OSError: in one sentence, for a name that is none, a missing package, a key, proxy or certificate
            that cannot be used, and a server that is not there or refuses the key.
    """

    def __init__(self, name: str, concurrency: int = 8, timeout: float = 120.0, retries: int = 6) -> None:
        self.base_url, self.name = endpoint(name)
        try:
            import openai
        except ImportError:
            raise ValueError("Served language models need openai: pip install 'dynagent[served]'.") from None
        self._openai, self.concurrency = openai, concurrency
        self._refusals = (openai.BadRequestError, openai.UnprocessableEntityError)
        hosted = self.base_url.startswith("https://api.openai.com/")  # one server's key is not for another
        self._length = LENGTHS[hosted]
        self._key_name = "OPENAI_API_KEY" if hosted else "DYNAGENT_API_KEY"
        self._key = key_from(self._key_name) or "no-key"
        # Nor are the account's names, which the client would take from the environment.
        headers = {} if hosted else dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit())
        options: dict[str, Any] = {"timeout": timeout, "max_retries": retries, "default_headers": headers}
        self._client = make_client(openai, self.base_url, api_key=self._key, **options)
        self._joins: tuple[bool, ...] = (False, True)  # to be tried in this order, until one is known to do
        self._scores: tuple[bool, ...] = (True, False)
        self._left_out: frozenset[str] = frozenset()
        self._candidates = LIKELIEST["top_logprobs"]
        self._listed: dict[str, Any] = {}
        with self._in_a_sentence(), suppress(openai.NotFoundError, openai.InternalServerError, *GARBLED):
            self._listed = {model.id: model for model in self._client.with_options(max_retries=1).models.list()}
        stated = {key: value for key in STATED if (value := getattr(self._listed.get(self.name), key, None))}
        digest = hashlib.sha256(json.dumps([self.base_url, self.name, stated]).encode()).hexdigest()[:12]
        self.identity = f"{re.sub(r'[^a-z0-9.]+', '-', name.lower())}-{digest}-served"
        self.source = Source(self.name, "served", self.base_url, json.dumps(stated), "not verifiable", "unknown")

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Every request by itself: the server makes its own batches."""
        return [[index] for index in range(len(requests))]

    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        with self._in_a_sentence(" ".join(request.origin[3:4])):  # an agent's origin names the question
            try:
                return (
                    self._score(request) if request.options and isinstance(request.prompt, str) else self._chat(request)
                )
            except (self._openai.BadRequestError, self._openai.PermissionDeniedError) as error:
                if is_refusal(self._shown(error)):
                    return refused(request)
                raise
            except RefusedError:
                return refused(request)

    def _score(self, request: Request) -> Reply:
        """Likelihoods of what follows a plain prompt."""
        asked = {"prompt": [f"{request.prompt}{option}" for option in ("", *request.options)], "echo": True}
        asked |= {"logprobs": 1, "max_tokens": 1, "temperature": 0, **request.request_options}
        create = self._client.completions.with_raw_response.create
        try:
            return self._ask(create, lambda body: echoed(body, request), asked)
        except (*self._refusals, ConnectionError) as error:
            if isinstance(error, self._openai.BadRequestError) and is_refusal(self._shown(error)):
                return refused(request)
            where = f"{self.base_url} does not score options after a plain prompt ({self._shown(error)})"
            raise ValueError(f"{where}: set agent_mode to 'letter' or 'text', or serve the model with vLLM.") from None

    def _chat(self, request: Request) -> Reply:
        """What the model writes, or its likelihoods of the letters; a plain prompt is what the user says."""
        chat = [("user", request.prompt)] if isinstance(request.prompt, str) else [*request.prompt]
        begun = chat.pop()[1] if chat[-1][0] == "assistant" else ""
        asked: dict[str, Any] = {"temperature": request.temperature, LENGTHS[0]: request.max_new_tokens}
        if request.temperature > 0:
            asked |= {"top_p": 0.9, "seed": int(request.key(self.identity)[:7], 16)}
        has_system, known = chat[0][0] == "system", self._scores
        forms = [*product(self._joins if has_system else (False,), known if request.options else (False,))]
        for joins, scores in forms:
            said = [("user", f"{chat[0][1]}\n\n{chat[1][1]}"), *chat[2:]] if joins else chat
            form = asked | {"messages": [{"role": role, "content": content} for role, content in said]}
            if scores:  # without them the whole text is needed
                form |= LIKELIEST | ({LENGTHS[0]: 1} if known == (True,) else {})
            try:
                body = self._send(form, request)
            except self._refusals as error:
                if (joins, scores) == forms[-1] or is_refusal(self._shown(error)):
                    raise
                continue
            reply = written(body, request, begun)
            if scores:
                reply = self._letters(reply, body, request, form)
            break
        self._joins = (joins,) if has_system and not reply.is_refused else self._joins
        if request.options and not scores and known != (False,):
            self._scores = (False,)
        return reply

    def _letters(self, reply: Reply, body: Mapping[str, Any], request: Request, form: Mapping[str, Any]) -> Reply:
        """The likelihoods of the letters, or what is written where they are not in sight."""
        if reply.is_refused:
            return reply
        candidates = first_candidates(body)
        scores = letter_scores(candidates, request.options)
        if scores is not None:
            self._scores = (True,)
            return Reply(None, scores, (1,) * len(scores), reply.prompt_tokens, max(reply.completion_tokens, 1))
        if not candidates or any(is_thought(token) for token, _ in candidates[:1]):
            self._scores = (False,)  # nor will the next reply have any
        if form[LENGTHS[0]] == 1 < request.max_new_tokens:
            whole = {name: value for name, value in form.items() if name not in LIKELIEST}
            first, body = reply, self._send(whole | {LENGTHS[0]: request.max_new_tokens}, request)
            reply = written(body, request)
            read, wrote = (first.prompt_tokens + reply.prompt_tokens, first.completion_tokens + reply.completion_tokens)
            reply = replace(reply, prompt_tokens=read, completion_tokens=wrote)
        return reply

    def _send(self, form: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """The answer to a chat, without what the server refuses by name; that is remembered once there is an answer."""
        length, left_out, candidates = self._length, self._left_out, self._candidates
        while True:
            sent = {length if name == LENGTHS[0] else name: value for name, value in form.items()}
            sent = {name: value for name, value in sent.items() if name not in left_out}
            if "top_logprobs" in sent:
                sent["top_logprobs"] = candidates
            if request.request_options.keys() & {*LENGTHS}:
                sent.pop(length, None)
            sent |= request.request_options
            try:
                body = self._ask(self._client.chat.completions.with_raw_response.create, self._held, sent)
            except self._refusals as error:
                named = _named(self._shown(error), sent.keys() - request.request_options.keys())
                if named == "length" and length == self._length:
                    length = LENGTHS[length == LENGTHS[0]]
                elif named == "top_logprobs" and candidates > FEWEST:
                    candidates = FEWEST
                elif named in DISPENSABLE:
                    left_out |= {named}
                else:
                    raise
                continue
            if left_out - self._left_out:
                log.warning(
                    "%s takes no %s, which is left out: %s", self.base_url, " and no ".join(sorted(left_out)),
                    "its replies are drawn in its own way and cannot be drawn again.",
                )  # fmt: skip
            self._length, self._left_out, self._candidates = length, left_out, candidates
            return body

    @staticmethod
    def _held(body: dict[str, Any]) -> dict[str, Any]:
        """The answer, once it is known that it holds a text or says why not."""
        written(body, Request(""))
        return body

    def _ask(self, create: Callable[..., Any], read: Callable[[dict[str, Any]], Any], asked: Mapping[str, Any]) -> Any:
        """What `read` makes of an answer that holds a reply."""
        needed = {name: asked[name] for name in ("messages", "prompt") if name in asked}
        more = {name: value for name, value in asked.items() if name not in needed}
        for _ in range(READINGS):
            answer = create(model=self.name, extra_body=more, **needed)
            text = bytes(answer.content).decode("utf-8", "replace")
            try:
                return read(parse(text))
            except RefusedError:
                raise
            except UnreadableError:
                continue
        raise ConnectionError(
            f"{self.base_url} sent {READINGS} unreadable replies to a call, the last one ({self._one_line(text)}): see "
            "to the server."
        )

    def _shown(self, error: Exception) -> str:
        """What a server says, on one line and without the key."""
        response = getattr(error, "response", None)
        return self._one_line(str(error) if response is None else f"status {response.status_code}, {response.text}")

    def _one_line(self, said: str) -> str:
        return " ".join(said[: 100 * SHOWN].replace(self._key, "***").split())[:SHOWN]

    @contextmanager
    def _in_a_sentence(self, question: str = "") -> Iterator[None]:
        """A fault of the server in one sentence that says what to do; the client's own might repeat the key."""
        try:
            yield
        except self._openai.APIError as error:
            what = f"{self.base_url} does not answer a call to {self.name} ({self._shown(error)})"
            if question:
                what += f" on question {question}"
            if isinstance(error, self._openai.APIConnectionError) and (proxy := proxy_variable(self.base_url)):
                what += f", through the proxy that {proxy} names"
            known = f"it lists the models {', '.join(self._listed) or 'none'}; the key is from {self._key_name}"
            raise ConnectionError(f"{what}: {known}; all replies so far are on record.") from None


def _named(said: str, sent: Set[str]) -> str | None:
    """Which parameter of a call a refusal names: "length" for the bound of tokens."""
    if any(re.search(rf"\b{name}\b", said) for name in LENGTHS if name in sent):
        return "length"
    return next(
        (name for name in ("top_logprobs", *DISPENSABLE) if name in sent and re.search(rf"\b{name}\b", said)), None
    )
