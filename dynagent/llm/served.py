"""A language model behind an OpenAI-compatible server: vLLM, Ollama, `transformers serve` or a hosted one."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

from dynagent.artefacts.sources import Source
from dynagent.llm.base import Reply, Request
from dynagent.llm.endpoints import endpoint

LIKELIEST = {"logprobs": True, "top_logprobs": 20}  # first tokens of a reply: the most that the protocol allows
READINGS = 3  # of a reply that cannot be read
GARBLED = (ValueError, TypeError, AttributeError, IndexError)  # what reading one raises
STATED = ("root", "owned_by", "max_model_len")  # of what /v1/models says, that which holds from one start to the next


class ServedModel:
    """What answers under `openai:<base_url>#<model>`; which weights that are, a server may say but cannot prove.

    - Options are scored by the tokens that follow the prompt, from the endpoint `completions` with `echo` (vLLM has
      it); a server without is a ValueError.
    - Letters are scored by the first token of the chat's reply; a letter that is not among the 20 likeliest gets the
      score of the last of them. Where the server gives no log-probabilities, the reply is text, written greedily.
    - Other replies are drawn with top_p = .9 and a seed of their own; the protocol has no top_k.
    - Where a chat is refused (status 400 or 422), since its template has no system role, the system's text is put
      before the user's. A reply that was begun for the model is written whole, and its beginning taken off.

    The client tries again, after .5 to 8 seconds or as the server says, where a connection is refused or cut, after a
    time-out, and after the statuses 408, 409, 429 and 5xx. A call that timed out may have been computed, and be charged
    for. A reply that is no JSON, or lacks choices or the count of tokens, is asked for again at once.

    A call that gets no reply in the end, be it for time-outs, is an error that stops the run, which can be gone on
    with. It is never counted as an answer, since it tells of the server and not of the agent.

    Args:
        name: `openai:<base_url>#<model>`.
        concurrency: calls under way at a time.
        timeout: seconds that a call may take, the server's queue included.
        retries: of one call.

    Raises:
        ValueError, OSError: in one sentence, for a name that is none, a missing package, and a server that is not there
            or refuses the key.
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
        self._length = "max_completion_tokens" if hosted else "max_tokens"
        self._key_name = "OPENAI_API_KEY" if hosted else "DYNAGENT_API_KEY"
        self._key = os.environ.get(self._key_name) or "no-key"
        # Nor are the account's names, which the client would take from the environment.
        headers = {} if hosted else dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit())
        options: dict[str, Any] = {"timeout": timeout, "max_retries": retries, "default_headers": headers}
        self._client = openai.OpenAI(api_key=self._key, base_url=self.base_url, **options)
        self._joins: tuple[bool, ...] = (False, True)  # to be tried in this order, until one is known to do
        self._scores: tuple[bool, ...] = (True, False)
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
        with self._in_a_sentence():
            return [self._score(r) if r.options and isinstance(r.prompt, str) else self._chat(r) for r in requests]

    def _score(self, request: Request) -> Reply:
        """Likelihoods of what follows a plain prompt; read alone, too, this tells by its length where that begins."""

        def read(completion: Any, *tokens: int) -> Reply:
            choices = sorted(completion.choices, key=lambda choice: choice.index)
            echoed = [choice.logprobs.token_logprobs for choice in choices]  # and one token that was written
            if sum(map(len, echoed)) != sum(tokens):
                raise ValueError
            options = [scores[len(echoed[0]) - 1 : -1] for scores in echoed[1:]]
            return Reply(None, tuple(map(sum, options)), tuple(map(len, options)), *tokens)

        asked = {"prompt": [f"{request.prompt}{option}" for option in ("", *request.options)], "echo": True}
        try:
            return self._ask(self._client.completions, read, asked | {"logprobs": 1, "max_tokens": 1, "temperature": 0})
        except (*self._refusals, ConnectionError) as error:
            where = f"{self.base_url} does not score options after a plain prompt ({self._shown(error)})"
            raise ValueError(f"{where}: set agent_mode to 'letter' or 'text', or serve the model with vLLM.") from None

    def _chat(self, request: Request) -> Reply:
        """What the model writes, or its likelihoods of the letters; a plain prompt is what the user says."""
        chat = [("user", request.prompt)] if isinstance(request.prompt, str) else [*request.prompt]
        begun = chat.pop()[1] if chat[-1][0] == "assistant" else ""

        def read(completion: Any, *tokens: int) -> Reply:
            choice = completion.choices[0]
            first = ((request.options and choice.logprobs and choice.logprobs.content) or [])[:1]
            found = {likely.token: likely.logprob for token in first for likely in reversed(token.top_logprobs)}
            if not found:
                return Reply((choice.message.content or "").removeprefix(begun), None, None, *tokens)
            scores = tuple(found.get(option, min(found.values())) for option in request.options)
            return Reply(None, scores, (1,) * len(scores), *tokens)

        asked: dict[str, Any] = {"temperature": request.temperature, self._length: request.max_new_tokens}
        if request.temperature > 0:
            asked |= {"top_p": 0.9, "seed": int(request.key(self.identity)[:7], 16)}
        has_system, known = chat[0][0] == "system", self._scores
        forms = [*product(self._joins if has_system else (False,), known if request.options else (False,))]
        for joins, scores in forms:
            said = [("user", f"{chat[0][1]}\n\n{chat[1][1]}"), *chat[2:]] if joins else chat
            form = asked | {"messages": [{"role": role, "content": content} for role, content in said]}
            if scores:  # without them the whole text is needed
                form |= LIKELIEST | ({self._length: 1} if known == (True,) else {})
            with suppress(*self._refusals if (joins, scores) != forms[-1] else ()):
                reply = self._ask(self._client.chat.completions, read, form)
                break
        self._joins = (joins,) if has_system else self._joins
        self._scores = (reply.log_probs is not None,) if request.options else self._scores
        return reply

    def _ask(self, endpoint: Any, read: Callable[..., Reply], asked: dict[str, Any]) -> Reply:
        for _ in range(READINGS):
            with suppress(*GARBLED):
                completion = endpoint.create(model=self.name, **asked)
                return read(completion, completion.usage.prompt_tokens, completion.usage.completion_tokens)
        raise ConnectionError(f"{self.base_url} sent {READINGS} unreadable replies to a call: see to the server.")

    def _shown(self, error: Exception) -> str:
        """What a server says, on one line and without the key."""
        response = getattr(error, "response", None)
        said = str(error) if response is None else f"status {response.status_code}, {response.text}"
        return " ".join(said.replace(self._key, "***").split())[:300]

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        """A fault of the server in one sentence that says what to do; the client's own might repeat the key."""
        try:
            yield
        except self._openai.APIError as error:
            what = f"{self.base_url} does not answer a call to {self.name} ({self._shown(error)})"
            known = f"it lists the models {', '.join(self._listed) or 'none'}; the key is from {self._key_name}"
            raise ConnectionError(f"{what}: {known}; all replies so far are on record.") from None
