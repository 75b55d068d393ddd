"""Records a language model's agents that read each other: `make record-communication`, an hour on two cores.

It can be stopped and started again at any time. Questions come in parts, each run whole whatever is already on record,
so that a resumed recording is the same as an undisturbed one; processes may share the parts (`--parts 0 2`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import DynamicCache

from dynagent.execution.runner import Runner
from dynagent.llm.base import Reply, Request
from dynagent.llm.local import SAMPLING, TransformersModel
from dynagent.llm.replay import recorded_file
from dynagent.llm.store import Recorded
from dynagent.runs.paths import resolve_path
from dynagent.tasks.multiple_choice import load_questions
from studies.common.program import program
from studies.communication.team import FOLDER, MODEL, make_graph, short_questions, wiring

RECORDINGS = "results/recordings"
TOKENS_PER_BATCH = 4096  # a step of a written reply costs the same for one reply as for thirty
NUM_PARTS = 8


class SharedPrefixModel(TransformersModel):
    """Computes once for a batch what all of its prompts begin with: the instructions, mostly half of a short prompt.

    Scores and texts are those of `TransformersModel` up to rounding.
    """

    def prefilled(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Ids and mask, [B, L], with padding behind what is common, and the cache of that."""
        places = zip(*(ids[:-1] for ids in prompts), strict=False)
        common = sum(1 for _ in takewhile(lambda at_one_place: len(set(at_one_place)) == 1, places))
        rest, mask = self._left_padded([ids[common:] for ids in prompts])
        begin = torch.tensor(prompts[0][:common], dtype=torch.long).expand(len(prompts), -1)
        ids, mask = torch.cat([begin, rest], 1), torch.cat([torch.ones_like(begin), mask], 1)
        cache = DynamicCache(config=self.model.config)
        if common:
            self.model.base_model(ids[:1, :common], past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(prompts))
        return ids, mask, cache

    def _score(self, requests: Sequence[Request]) -> list[Reply]:
        prompts = [self._prompt_ids(request.prompt) for request in requests]
        letters = [[option[0] for option in self._option_ids(request)] for request in requests]
        ids, mask, cache = self.prefilled(prompts)
        common = cache.get_seq_length()
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, common:]
        last = torch.tensor([ids.shape[1] - common - 1])
        out = self.model(
            ids[:, common:], attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=last
        )
        log_probs = out.logits[:, -1].float().log_softmax(-1).gather(1, torch.tensor(letters)).tolist()
        return [
            Reply(None, tuple(scores), (1,) * len(scores), len(prompt), len(scores))
            for scores, prompt in zip(log_probs, prompts, strict=True)
        ]

    def _generate(self, requests: Sequence[Request]) -> list[Reply]:
        prompts = [self._prompt_ids(request.prompt) for request in requests]
        ids, mask, cache = self.prefilled(prompts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(int(request.key(self.identity)[:12], 16) for request in requests))
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=requests[0].max_new_tokens,
                do_sample=True, temperature=requests[0].temperature, repetition_penalty=1.0,
                pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.end_tokens,
                logits_to_keep=torch.tensor([-1]), **SAMPLING,
            )  # fmt: skip
        replies = []
        for prompt, new in zip(prompts, out[:, ids.shape[1] :].tolist(), strict=True):
            ends = [place for place, token in enumerate(new) if token in self.end_tokens]
            written = new[: ends[0] + 1] if ends else new
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            replies.append(Reply(text, prompt_tokens=len(prompt), completion_tokens=len(written)))
        return replies


def take_over(of: Path, to: Path, keys: set[str]) -> None:
    """Copy the replies with these keys from one record to another that does not have them."""
    had = {json.loads(line)["key"] for line in to.read_text().splitlines()} if to.exists() else set()
    lines = [line for line in of.read_text(encoding="utf-8").splitlines() if json.loads(line)["key"] in keys - had]
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def record(llm: Recorded, questions: list[Any], parts: list[int]) -> None:
    """Ask the sender, a voter that has heard it, and a voter that has heard nobody."""
    runner = Runner(make_graph(llm))
    size = -(-len(questions) // NUM_PARTS)
    for part in parts:
        chosen = questions[part * size : (part + 1) * size]
        adjacency = wiring(runner.graph, (0,), num_readers=1, num_alone=1)
        runner.run(chosen, adjacency.expand(len(chosen), 1, -1, -1))


@program
def main(
    parts: Annotated[list[int] | None, typer.Argument(help="of 0 to 7, only these; by default all")] = None,
) -> None:
    """Record the replies of agents that read each other."""
    chosen = parts or list(range(NUM_PARTS))
    questions = short_questions(load_questions("mmlu", "test", limit=1000))
    model = SharedPrefixModel.load(MODEL)
    model.tokens_per_batch = TOKENS_PER_BATCH
    path = resolve_path(FOLDER) / f"{model.identity}.jsonl"
    voter = make_graph(None).team[-1]
    alone = {voter.request(question).key(model.identity) for question in questions}
    if 0 in chosen:
        take_over(recorded_file(resolve_path(RECORDINGS), "agent", MODEL), path, alone)
    record(Recorded(model, path), questions, chosen)


if __name__ == "__main__":
    sys.exit(main())
