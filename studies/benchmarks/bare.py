"""A language model in a bare loop: what reading and scoring through the library are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from dynagent.llm.local import batches_of_similar_length


def token_count(model: Any, texts: list[str]) -> int:
    return sum(len(model.tokenizer(text).input_ids) for text in texts)


def length_sorted(model: Any, texts: list[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of texts of similar length: token ids [B, L], padded on the right, and mask."""
    ids = [torch.tensor(model.tokenizer(text).input_ids) for text in texts]
    for batch in batches_of_similar_length([*map(len, ids)], model.tokens_per_batch):
        rows = [ids[i] for i in batch]
        yield pad_sequence(rows, batch_first=True), pad_sequence([torch.ones_like(one) for one in rows], True)


@torch.inference_mode()
def bare_features(model: Any, texts: list[str]) -> None:
    """Hidden states of the texts."""
    for ids, mask in length_sorted(model, texts):
        model.model.base_model(ids, attention_mask=mask, use_cache=False)


@torch.inference_mode()
def bare_texts(model: Any, texts: list[str]) -> None:
    """Log-probabilities of all tokens of the texts."""
    for ids, mask in length_sorted(model, texts):
        logits = model.model(ids, attention_mask=mask, use_cache=False).logits
        logits.gather(-1, ids[..., None]).squeeze(-1) - logits.logsumexp(-1)


@torch.inference_mode()
def bare_scores(model: Any, requests: list[Any]) -> None:
    """Log-probabilities of the options' tokens, after prompts that are computed once for all options.

    In the batches that the library makes: with few questions, whose batches are luckier would be what is compared.
    """
    for batch in model.batches(requests):
        prompts = [torch.tensor(model.tokenizer(requests[i].prompt).input_ids) for i in batch]
        ids, mask = pad_sequence(prompts, True), pad_sequence([torch.ones_like(prompt) for prompt in prompts], True)
        out = model.model(ids, attention_mask=mask, use_cache=True, logits_to_keep=torch.tensor([ids.shape[1] - 1]))
        options = [model.tokenizer(option).input_ids for i in batch for option in requests[i].options]
        owner = torch.tensor([place for place, i in enumerate(batch) for _ in requests[i].options])
        tokens = pad_sequence([torch.tensor(option) for option in options], batch_first=True)
        out.past_key_values.reorder_cache(owner)
        both = torch.cat([mask[owner], torch.ones_like(tokens[:, :-1])], 1)
        logits = model.model(tokens[:, :-1], attention_mask=both, past_key_values=out.past_key_values).logits
        logits.gather(-1, tokens[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
