"""Options and letters are scored by the tokens that stand in the text, whatever a tokenizer does with blanks."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from dynagent.artefacts.sources import Source, cache_dir
from dynagent.llm.base import Request
from dynagent.llm.local import TransformersModel
from dynagent.tasks.multiple_choice import load_questions
from dynagent.team.agents import Truthful

CORPUS = [
    "the answer is Paris London Berlin question option A B C D",
    "Answer: Paris is a city",
    "答案：蓝色 天空 是 蓝色",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}<|assistant|>\n"
REQUESTS = (
    Request("the question: what?\nAnswer:", (" Paris", " London", " a zebra in Oslo", " Par")),
    Request("问题：天空是什么颜色？\n答案：", ("蓝色", "蓝", "red")),
    Request("Answer: Par", ("is", "is London", "lour", "")),
    Request((("user", "the question"),), ("A", "B", "C", "D")),
)
# What comes before the merges: as Llama and Mistral have it, newer SentencePiece, byte level.
PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "prepend": (PREPEND, None),
    "replace": (normalizers.Replace(" ", "▁"), None),
    "metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "metaspace first": (None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "metaspace never": (None, pre_tokenizers.Metaspace(prepend_scheme="never")),
    "bytes": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "bytes with prefix": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
}


def model_of(kind, ends=False):
    normalizer, pre_tokenizer = KINDS[kind]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    bpe.normalizer, bpe.pre_tokenizer = normalizer, pre_tokenizer
    bpe.decoder = decoders.ByteLevel() if "bytes" in kind else decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if "bytes" in kind else []
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=450, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    single = "<s> $A </s>" if ends else "<s> $A"
    bpe.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.5, max_position_embeddings=512,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float()
    return TransformersModel(model, tokenizer, Source("t", "own", "t", None, "0" * 64, "x"))


@torch.no_grad()
def score_of_joint_texts(llm, request, ends=False):
    """From full forwards of every text: the sum over the tokens that are not in all of them, and how many these are."""
    plain = isinstance(request.prompt, str)
    head = request.prompt if plain else llm._render(request.prompt)
    texts = [llm.tokenizer(head + option, add_special_tokens=plain).input_ids for option in ("", *request.options)]
    texts = [ids[:-1] if ends and plain else ids for ids in texts]
    together = [*zip(*texts, strict=False)]
    common = next((place for place, tokens in enumerate(together) if len(set(tokens)) > 1), len(together))
    common = min(common, *(len(ids) - 1 for ids in texts[1:]))
    totals = []
    for ids in texts[1:]:
        log_probs = llm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        totals.append(sum(log_probs[place - 1, ids[place]].item() for place in range(common, len(ids))))
    return totals, tuple(len(ids) - common for ids in texts[1:])


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_an_option_is_that_of_the_joint_text(kind, ends):
    llm = model_of(kind, ends)
    for request, reply in zip(REQUESTS, llm.reply(REQUESTS), strict=True):
        totals, tokens = score_of_joint_texts(llm, request, ends)
        assert reply.option_tokens == tokens
        assert reply.log_probs == pytest.approx(totals, abs=1e-4)


def test_an_option_alone_would_have_other_tokens():
    """For this kind it matters: alone, an option begins with a blank of its own and one that is put before it."""
    llm, request = model_of("prepend"), REQUESTS[0]
    alone = [list(llm.tokenizer(option, add_special_tokens=False).input_ids) for option in request.options]
    assert all(one != joint for one, joint in zip(alone, llm._option_ids(request), strict=True))


PINNED_FOLDERS = sorted(cache_dir().glob("*-transformers*/tokenizer.json"))


@pytest.mark.parametrize("file", PINNED_FOLDERS, ids=lambda file: Path(file).parent.name.rsplit("-", 2)[0])
def test_with_the_pinned_models_joint_and_separate_tokens_are_the_same(file):
    """So that what is on record of them stays valid."""
    llm = model_of("bytes")
    llm.tokenizer = AutoTokenizer.from_pretrained(file.parent)
    for question in load_questions("sample", "test", limit=60):
        for mode in ("options", "letter"):
            request = Truthful(None, mode=mode).request(question)
            prompt, options = llm._scored_ids(request)
            alone = [list(llm.tokenizer(option, add_special_tokens=False).input_ids) for option in request.options]
            assert (prompt, options) == (llm._prompt_ids(request.prompt), alone)
