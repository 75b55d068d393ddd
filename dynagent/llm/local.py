"""A causal language model run by the transformers library: scores options, writes text, reads questions."""

from __future__ import annotations

import copy
import re
import timeit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynagent.artefacts.sources import MODEL_FILES, Source, combined_sha256, file_sha256, hub_snapshot, model_folder
from dynagent.llm.base import Chat, Reply, Request
from dynagent.progress import progress

Readout = Literal["last_hidden", "mean_hidden", "mean_embedding"]
READOUTS: tuple[str, ...] = get_args(Readout)
TOKENS_PER_BATCH = (1024, 4096)  # after padding; on a CPU and on accelerators
PADDING = -1  # in token ids, after a text's end
SAMPLING = {"top_k": 50, "top_p": 0.9}  # the paper's, wherever the temperature is above 0


class TransformersModel:
    """A pretrained causal LM on one device, in inference mode.

    Batches hold texts of similar length, as many as fit into `tokens_per_batch` after padding.
    """

    def __init__(self, model: Any, tokenizer: Any, source: Source, tokens_per_batch: int | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = copy.deepcopy(tokenizer)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.source = source
        dtype = str(model.dtype).removeprefix("torch.")
        self.identity = f"{re.sub(r'[^a-z0-9.]+', '-', source.name.lower())}-{source.sha256[:12]}-{dtype}"
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH[model.device.type != "cpu"]

    @classmethod
    def load(
        cls, name: str, *, dtype: str | None = None, device: str | None = None, trust_remote_code: bool = False
    ) -> TransformersModel:
        """Load by alias, hub id or folder (see `dynagent.llm.load.load_llm`).

        Args:
            dtype: "bfloat16" or "float32"; without, the faster of the two on this machine. It is part of the model's
                identity, so that replies and features of different precision are never mixed.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or faster_precision(device)
        folder, source = model_folder(name)
        if trust_remote_code:
            source = _with_code(folder, source)
        hook = logging.set_tqdm_hook(lambda _, items, options: progress(*items, **{"delay": 1.0} | options))
        try:
            with refused_in_a_sentence(name):
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
                model = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, use_safetensors=True
                )
        finally:
            logging.set_tqdm_hook(hook)
        return cls(model.to(device), tokenizer, source)

    @property
    def hidden_size(self) -> int:
        return int(self.model.get_input_embeddings().embedding_dim)

    # --- replies -------------------------------------------------------------------------------------------

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Requests of one kind and of similar length, each batch within `tokens_per_batch`."""
        kinds: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            kind = ("options",) if request.options else (request.temperature, request.max_new_tokens)
            kinds.setdefault(kind, []).append(index)
        batches = []
        for indices in kinds.values():
            similar = batches_of_similar_length([self._length(requests[i]) for i in indices], self.tokens_per_batch)
            batches += [[indices[j] for j in batch] for batch in similar]
        return batches

    @torch.inference_mode()
    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        if requests[0].options:
            return self._score(requests)
        return self._generate(requests)

    def _length(self, request: Request) -> int:
        """Tokens of the prompt, or of all options together when each is padded to the longest, if these are more."""
        options = [len(ids) for ids in self._option_ids(request)]
        return max(len(self._prompt_ids(request.prompt)), len(options) * max(options, default=0))

    def _prompt_ids(self, prompt: str | Chat) -> list[int]:
        begun = "" if isinstance(prompt, str) or prompt[-1][0] != "assistant" else prompt[-1][1]  # of the reply
        text = prompt if isinstance(prompt, str) else self._render(prompt[:-1] if begun else prompt) + begun
        # A template writes the special tokens itself; other text gets the tokenizer's.
        plain = isinstance(prompt, str) or self.tokenizer.chat_template is None
        ids = list(self.tokenizer(text, add_special_tokens=plain, verbose=False).input_ids)
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit and len(ids) > limit:
            what = f"A prompt of {len(ids):,} tokens is longer than the {limit:,} that {self.source.name} can read"
            raise ValueError(f"{what}: take the question out, or another model ({text[:60]!r} ...).")
        return ids

    def _render(self, chat: Chat) -> str:
        if self.tokenizer.chat_template is None:
            return "\n\n".join(content for _, content in chat) + "\n\n"
        messages = [{"role": role, "content": content} for role, content in chat]
        begins_with_system = chat[0][0] == "system"
        try:
            text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError:
            if not begins_with_system:
                raise
            text = ""
        # A template without a system role raises its own error, or leaves the message out without a word.
        if begins_with_system and chat[0][1].strip() not in text:
            (_, system), (_, user), *rest = chat
            return self._render((("user", f"{system}\n\n{user}"), *rest))
        return text

    @cached_property
    def end_tokens(self) -> list[int]:
        """Ids of the tokens that end a reply: the model's own, and what closes one in the chat template."""
        own = self.model.generation_config.eos_token_id  # one, several or None
        ids = {*own} if isinstance(own, list) else {own} - {None}
        if self.tokenizer.chat_template is not None:
            reply = "the reply"
            text = self._render((("user", "a question"), ("assistant", reply)))
            closing = self.tokenizer(text.rpartition(reply)[2].lstrip(), add_special_tokens=False).input_ids
            # Gemma's and Llama 3's first configs leave it out; ordinary text ends nothing.
            ids |= {*closing[:1]} & {*self.tokenizer.added_tokens_decoder}
        return sorted(ids)

    def _option_ids(self, request: Request) -> list[list[int]]:
        return [list(self.tokenizer(o, add_special_tokens=False).input_ids) for o in request.options]

    def _left_padded(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Input ids and attention mask, both [B, L]."""
        padded = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        padded = padded.to(self.model.device)
        return padded.input_ids, padded.attention_mask

    def _score(self, requests: Sequence[Request]) -> list[Reply]:
        """Log-probability of every option; the prompt is computed once and its keys and values are shared."""
        prompts = [self._prompt_ids(request.prompt) for request in requests]
        options = [self._option_ids(request) for request in requests]
        ids, mask = self._left_padded(prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        # An index tensor, not the number 1: on a strided slice PyTorch would copy the output matrix for every row.
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        out = self.model(ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=last)

        owner = torch.tensor([b for b, group in enumerate(options) for _ in group], device=ids.device)
        flat = [torch.tensor(option) for group in options for option in group]
        first = torch.stack([option[0] for option in flat]).to(owner.device)
        first_log_probs = out.logits[:, -1].float().log_softmax(-1)
        totals = first_log_probs[owner, first]  # [sum of options]
        if max(map(len, flat)) > 1:
            totals = totals + self._score_rest(out.past_key_values, mask, flat, owner)

        replies = []
        for prompt, group, scores in zip(prompts, options, totals.split([*map(len, options)]), strict=True):
            tokens = tuple(map(len, group))
            replies.append(Reply(None, tuple(scores.tolist()), tokens, len(prompt), sum(tokens)))
        return replies

    def _score_rest(self, cache: Any, mask: Tensor, flat: list[Tensor], owner: Tensor) -> Tensor:
        """Log-probability of each option's second to last token, given the prompts' cache: [sum of options]."""
        cache.reorder_cache(owner)
        tokens = pad_sequence(flat, batch_first=True, padding_value=PADDING).to(owner.device)
        valid, tokens = (tokens != PADDING).long(), tokens.clamp(min=0)
        prompt_mask = mask[owner]
        step = torch.arange(tokens.shape[1] - 1, device=owner.device)
        logits = self.model(
            tokens[:, :-1],
            attention_mask=torch.cat([prompt_mask, valid[:, :-1]], 1),
            position_ids=prompt_mask.sum(1, keepdim=True) + step,
            past_key_values=cache,
        ).logits
        targets = tokens[:, 1:]
        chosen = logits.gather(-1, targets[..., None]).squeeze(-1).float()
        return ((chosen - logits.float().logsumexp(-1)) * valid[:, 1:]).sum(1)

    def _generate(self, requests: Sequence[Request]) -> list[Reply]:
        prompts = [self._prompt_ids(request.prompt) for request in requests]
        ids, mask = self._left_padded(prompts)
        drawn: dict[str, Any] = {}
        if requests[0].temperature > 0:
            drawn = {"temperature": requests[0].temperature, **SAMPLING}
        if self.model._supports_logits_to_keep():
            # generate's own choice, the number 1, would copy the output matrix for every row: see _score.
            drawn["logits_to_keep"] = torch.tensor([-1], device=ids.device)
        with torch.random.fork_rng(devices=[ids.device] if ids.device.type == "cuda" else []):
            # The draw is a function of the batch alone, so that it can be repeated.
            torch.manual_seed(sum(int(request.key(self.identity)[:12], 16) for request in requests))
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=requests[0].max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.end_tokens or None,
                repetition_penalty=1.0,  # a model's own would count the padding, too
                do_sample=requests[0].temperature > 0,
                **drawn,
            )
        new = out[:, ids.shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        # The end token counts, the padding after it does not; they may be the same token.
        ended = torch.isin(new, torch.tensor(self.end_tokens, device=new.device)).cumsum(1)
        lengths = (new.shape[1] - (ended[:, :-1] > 0).sum(1)).tolist()
        return [
            Reply(text, prompt_tokens=len(prompt), completion_tokens=length)
            for text, prompt, length in zip(texts, prompts, lengths, strict=True)
        ]

    # --- reading -------------------------------------------------------------------------------------------

    def encode_batches(self, texts: Sequence[str]) -> list[list[int]]:
        """Indices of the texts that are read together: a function of the whole list."""
        return batches_of_similar_length([len(self._prompt_ids(text)) for text in texts], self.tokens_per_batch)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The model's reading of one batch of texts, one [B, H] float32 tensor for each of `READOUTS`."""
        return read_out(self.model.base_model, token_ids(self.tokenizer, texts).to(self.model.device))


@cache
def faster_precision(device: str) -> str:
    """The precision in which a language model computes unless another is asked for: "bfloat16" or "float32".

    A processor without instructions for bfloat16 emulates them, and is then five to ten times slower than in single
    precision. Two small matrix products tell, once a process; half as fast is still no reason to take twice the memory.
    """
    if device != "cpu":
        return "bfloat16"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        left @ right  # the first product of a kind also sets up its kernel
        seconds[dtype] = min(timeit.repeat(partial(torch.matmul, left, right), number=1, repeat=5))
    return "float32" if 2 * seconds[torch.float32] < seconds[torch.bfloat16] else "bfloat16"


@contextmanager
def refused_in_a_sentence(name: str) -> Iterator[None]:
    """Where the library refuses to run a model's own code, it says so over several lines; here it is one."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name} comes with code of its own, which is not run unasked: read it, then set trust_remote_code to "
            "true, or choose a model that transformers knows."
        ) from None


def _with_code(folder: str, source: Source) -> Source:
    """Fetch a model's own code beside its weights; the source with a hash over both."""
    if source.kind == "hub":
        hub_snapshot(source.name, [*MODEL_FILES, "*.py"], source.revision)
    code = {file.name: file_sha256(file) for file in Path(folder).glob("*.py")}
    return replace(source, sha256=combined_sha256({"weights": source.sha256} | code)) if code else source


def token_ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Plain texts as token ids, padded on the right with `PADDING`: [B, L] long."""
    rows = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    return pad_sequence(rows, batch_first=True, padding_value=PADDING)


def read_out(backbone: Any, ids: Tensor) -> dict[str, Tensor]:
    """A backbone's reading of `token_ids`, one [B, H] tensor of single precision or better for each of `READOUTS`.

    last_hidden: the last layer's state at the last token (the paper's choice); mean_hidden: its mean over
    the tokens; mean_embedding: the mean input embedding (the paper's ablation).
    """
    mask = (ids != PADDING).long()
    tokens = ids.clamp(min=0)
    # A causal model never looks at what follows, so padding on the right changes nothing. It gets no mask of it, which
    # would keep it from the fastest attention, and the host waiting to see whether something is masked.
    hidden = _precise(backbone(tokens, use_cache=False).last_hidden_state)
    embedding = _precise(backbone.get_input_embeddings()(tokens))
    weights = (mask.to(hidden.dtype) / mask.sum(1, keepdim=True))[..., None]  # [B, L, 1]
    return {
        "last_hidden": hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1],
        "mean_hidden": (hidden * weights).sum(1),
        "mean_embedding": (embedding * weights).sum(1),
    }


def batches_of_similar_length(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Indices in batches of so many tokens after padding, or of one index; the longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens_per_batch:
            batches.append([])
        batches[-1].append(index)
    return batches


def _precise(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
