"""A causal language model run by the transformers library: scores options, writes text, reads questions."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynagent.artefacts.sources import Source, model_folder
from dynagent.llm.base import Chat, Reply, Request
from dynagent.llm.loading import faster_precision, load_whole, with_code
from dynagent.llm.prompts import ChatTemplate, adds_end

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
        dtype, content = str(model.dtype).removeprefix("torch."), source.sha256
        if thoughts := ChatTemplate(self.tokenizer).thoughts:  # such a model replies otherwise than by itself
            content = hashlib.sha256(f"{content} {thoughts}".encode()).hexdigest()
            source = replace(source, revision="; ".join(filter(None, (source.revision, thoughts))))
        self.source = source
        self.identity = f"{re.sub(r'[^a-z0-9.]+', '-', source.name.lower())}-{content[:12]}-{dtype}"
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
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or faster_precision(device)
        folder, source = model_folder(name)
        if trust_remote_code:
            source = with_code(folder, source)
        model, tokenizer = load_whole(name, folder, getattr(torch, dtype), trust_remote_code)
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
        """Tokens of the prompt, or of all options together when each is padded to the longest, if these are more.

        Raises:
            ValueError: if the prompt and what is to be written are longer than the model can read.
        """
        if not request.options:
            return len(self._prompt_ids(request.prompt, request.max_new_tokens))
        prompt, options = self._scored_ids(request)
        lengths = [len(ids) for ids in options]
        return max(len(prompt), len(lengths) * max(lengths))

    def _prompt_ids(self, prompt: str | Chat, num_more: int = 0) -> list[int]:
        """A prompt's tokens, to which so many more are to be added."""
        text, plain = self._text(prompt)
        ids = self._encode([text], plain)[0]
        self._check_length(len(ids), num_more, text)
        return ids

    def _text(self, prompt: str | Chat) -> tuple[str, bool]:
        """A prompt as text, and whether the tokenizer adds its special tokens: a template writes them itself."""
        begun = "" if isinstance(prompt, str) or prompt[-1][0] != "assistant" else prompt[-1][1]  # of the reply
        text = prompt if isinstance(prompt, str) else self._render(prompt[:-1] if begun else prompt) + begun
        return text, isinstance(prompt, str) or self.tokenizer.chat_template is None

    def _encode(self, texts: list[str], plain: bool) -> list[list[int]]:
        rows = self.tokenizer(texts, add_special_tokens=plain, verbose=False).input_ids
        return [list(row[:-1] if plain and self._adds_end else row) for row in rows]

    @cached_property
    def _adds_end(self) -> bool:
        return adds_end(self.tokenizer)

    def _check_length(self, num_read: int, num_more: int, text: str) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit and limit > 0 and num_read + num_more > limit:
            more = f", and {num_more:,} that are to follow," if num_more else ""
            what = (
                f"A prompt of {num_read:,} tokens{more} is longer than the {limit:,} that {self.source.name} can read"
            )
            raise ValueError(f"{what}: take the question out, or another model ({text[:60]!r} ...).")

    def _render(self, chat: Chat) -> str:
        return ChatTemplate(self.tokenizer).render(chat)

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
        return self._scored_ids(request)[1] if request.options else []

    def _scored_ids(self, request: Request) -> tuple[list[int], list[list[int]]]:
        """The prompt's tokens, and for each option those that the text of both has beyond them.

        What is scored is what stands in the text. Where the prompt's last tokens merge with an option's first ones, all
        options are scored from the first token that is not in every text.
        """
        text, plain = self._text(request.prompt)
        prompt, *joint = self._encode([text, *(text + option for option in request.options)], plain)
        common = min(len(prompt), *(len(ids) - 1 for ids in joint))
        while any(ids[:common] != prompt[:common] for ids in joint):
            common -= 1
        if common < 1:
            raise ValueError(f"An option after {text[:60]!r} has no tokens of its own: give the prompt a text.")
        options = [ids[common:] for ids in joint]
        self._check_length(len(prompt), max(map(len, options)), text)
        return prompt[:common], options

    def _left_padded(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Input ids and attention mask, both [B, L]."""
        padded = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        padded = padded.to(self.model.device)
        return padded.input_ids, padded.attention_mask

    def _score(self, requests: Sequence[Request]) -> list[Reply]:
        """Log-probability of every option; the prompt is computed once and its keys and values are shared."""
        if not self._has_cache:
            return [self._score_without_cache(request) for request in requests]
        scored = [self._scored_ids(request) for request in requests]
        prompts, options = [prompt for prompt, _ in scored], [group for _, group in scored]
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

    @cached_property
    def _has_cache(self) -> bool:
        """Whether the model remembers a prompt as keys and values, which can be padded, reordered and shared."""
        if not getattr(self.model, "_is_stateful", False):
            return True
        first = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        cache = getattr(self.model(first, use_cache=True), "past_key_values", None)
        return hasattr(cache, "reorder_cache")

    def _score_without_cache(self, request: Request) -> Reply:
        """Every option in a forward of its own, without padding: right for models that read step by step."""
        prompt, options = self._scored_ids(request)
        totals = []
        for option in options:
            ids = torch.tensor([prompt + option], device=self.model.device)
            log_probs = self.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            totals.append(log_probs.gather(1, ids[0, len(prompt) :, None]).sum().item())
        tokens = tuple(map(len, options))
        return Reply(None, tuple(totals), tokens, len(prompt), sum(tokens))

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
        if len(requests) > 1 and not self._has_cache:
            return [reply for request in requests for reply in self._generate([request])]
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
