"""A transformers model against naive loops: scores, batches, written replies and features, on tiny random models."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from dynagent.llm import local
from dynagent.llm.base import Request
from dynagent.llm.local import READOUTS, TransformersModel
from dynagent.llm.reading import QuestionReader
from dynagent.tasks.multiple_choice import Question

CORPUS = "the answer is Paris London Berlin question option A B C D long user system model"
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (  # refuses a system message in the way that Gemma's template does, and brings its own first token
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[model]"
)
CHAT = (("system", "Be brief."), ("user", "the question is long"))
OPTIONS = (" Paris", " B", " a zebra in Oslo", "!", " London Berlin")
PROMPTS = ["the answer", "question", "the question is long the question is long the answer is", "Où est 巴黎？"]
CONFIGS = {
    "llama": (LlamaConfig, {}),
    "gemma": (GemmaConfig, {"head_dim": 8}),
    # The window is shorter than most prompts here, and the caps are low enough to change every number.
    "gemma2": (
        Gemma2Config,
        {
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
        },
    ),
}


def make_tokenizer(template=None, pad="<pad>"):
    """A byte-level BPE of about 300 tokens that begins every text with <s>."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([CORPUS] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


def save(folder, kind="llama", seed=0, template=CHATML, pad="<pad>", **generation):
    tokenizer = make_tokenizer(template, pad)
    config_class, options = CONFIGS[kind]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    if generation:
        model.generation_config = GenerationConfig(**{"bos_token_id": 0, "eos_token_id": 1} | generation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Loads a tiny model of the given properties in float32, once."""
    loaded = {}

    def load(kind="llama", **options):
        name = repr((kind, options))
        if name not in loaded:
            folder = save(tmp_path_factory.mktemp(kind), kind, **options)
            loaded[name] = TransformersModel.load(folder, dtype="float32", device="cpu")
        return loaded[name]

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only get in each other's way on matrices of this size
    transformers_logging.disable_progress_bar()
    yield load
    transformers_logging.enable_progress_bar()
    torch.set_num_threads(num_threads)


@torch.no_grad()
def naive_scores(llm, text, options, first=("<s>",)):
    """One full forward of prompt and option for each option alone, without a mask or a cache."""
    prompt = llm.tokenizer.convert_tokens_to_ids(list(first)) + ids_of(llm, text)
    scores = []
    for option in (ids_of(llm, text) for text in options):
        log_probs = llm.model(torch.tensor([prompt + option])).logits[0].double().log_softmax(-1)
        scores.append(sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(option)))
    return scores


def ids_of(llm, text):
    return llm.tokenizer(text, add_special_tokens=False).input_ids


# --- scores of options


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_equal_full_forwards_of_every_option_alone(tiny, kind):
    llm = tiny(kind)
    assert sorted(len(ids_of(llm, option)) for option in OPTIONS)[:2] == [1, 1]
    requests = [Request(prompt, OPTIONS[: 2 + i]) for i, prompt in enumerate(PROMPTS)]
    for request, reply in zip(requests, llm.reply(requests), strict=True):
        naive = naive_scores(llm, request.prompt, request.options)
        assert reply.log_probs == pytest.approx(naive, abs=1e-4)
        tokens = tuple(len(ids_of(llm, option)) for option in request.options)
        assert reply.option_tokens == tokens
        assert (reply.text, reply.completion_tokens) == (None, sum(tokens))
        assert reply.prompt_tokens == 1 + len(ids_of(llm, request.prompt))


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_of_one_token_each_are_a_distribution(tiny, kind):
    llm = tiny(kind)
    vocabulary = tuple(chr(code) for code in range(33, 127))
    (reply,) = llm.reply([Request("the answer", vocabulary)])
    assert reply.option_tokens == (1,) * len(vocabulary)
    assert reply.log_probs == pytest.approx(naive_scores(llm, "the answer", vocabulary), abs=1e-4)
    assert 0 < sum(np.exp(reply.log_probs)) < 1


@pytest.mark.parametrize("kind", CONFIGS)
def test_neighbours_in_a_batch_change_no_score(tiny, kind):
    llm = tiny(kind)
    requests = [Request(prompt, OPTIONS[:n]) for prompt in PROMPTS for n in (1, 4)]
    together = llm.reply(requests)
    for request, reply in zip(requests, together, strict=True):
        (alone,) = llm.reply([request])
        assert reply.log_probs == pytest.approx(alone.log_probs, rel=1e-6, abs=1e-5)
        assert replace(reply, log_probs=None) == replace(alone, log_probs=None)


def test_caps_on_the_logits_bound_the_scores(tiny, monkeypatch):
    """With every logit within ±2, log-probabilities of a token are within 4 of minus the log of the vocabulary."""
    llm = tiny("gemma2")
    request = Request("the answer", (*"ABCDwxyz", "xy", "zA"))

    def spread():
        (reply,) = llm.reply([request])
        return np.abs(np.array(reply.log_probs) / reply.option_tokens + np.log(llm.model.config.vocab_size))

    assert spread().max() < 4
    monkeypatch.setattr(llm.model.config, "final_logit_softcapping", None)
    assert spread().max() > 4


def test_no_pad_token_is_no_obstacle(tiny):
    llm = tiny(pad=None)
    assert llm.tokenizer.pad_token_id == llm.tokenizer.eos_token_id == 1
    requests = [Request(prompt, OPTIONS) for prompt in PROMPTS]
    for request, reply in zip(requests, llm.reply(requests), strict=True):
        assert reply.log_probs == pytest.approx(naive_scores(llm, request.prompt, OPTIONS), abs=1e-4)


def test_the_callers_tokenizer_is_left_alone(tiny):
    tokenizer = make_tokenizer(pad=None)
    llm = TransformersModel(tiny().model, tokenizer, tiny().source)
    assert tokenizer.pad_token_id is None
    assert llm.tokenizer.pad_token_id == 1


# --- prompts


@pytest.mark.parametrize(
    ("template", "chat", "rendered", "first"),
    [
        (CHATML, CHAT, "<system>Be brief.</system>\n<user>the question is long</user>\n<assistant>", ()),
        (CHATML, CHAT[1:], "<user>the question is long</user>\n<assistant>", ()),
        (NO_SYSTEM, CHAT, "[user]Be brief.\n\nthe question is long[model]", ("<s>",)),
        (NO_SYSTEM, CHAT[1:], "[user]the question is long[model]", ("<s>",)),
        (
            NO_SYSTEM,
            (*CHAT, ("assistant", "A"), ("user", "B")),
            "[user]Be brief.\n\nthe question is long[assistant]A[user]B[model]",
            ("<s>",),
        ),
        (None, CHAT, "Be brief.\n\nthe question is long\n\n", ("<s>",)),
    ],
)
def test_a_chat_is_rendered_by_the_models_template(tiny, template, chat, rendered, first):
    """The first token is the template's business, and the tokenizer's where there is no template."""
    llm = tiny(template=template)
    (reply,) = llm.reply([Request(chat, OPTIONS)])
    assert reply.log_probs == pytest.approx(naive_scores(llm, rendered, OPTIONS, first), abs=1e-4)
    assert reply.prompt_tokens == len(first) + len(ids_of(llm, rendered))


def test_a_template_that_refuses_a_chat_without_system_message_is_an_error(tiny):
    llm = tiny(template="{{ raise_exception('Roles must alternate') }}")
    for chat in (CHAT, CHAT[1:]):
        with pytest.raises(Exception, match="Roles must alternate"):
            llm.reply([Request(chat, OPTIONS)])


# --- batches

work = st.lists(
    st.builds(
        Request,
        prompt=st.integers(1, 60).map(lambda n: "x" * n) | st.just(CHAT),
        options=st.sampled_from([(), (), ("A", "B"), ("A", "some longer option", "C"), ("x" * 30,) * 4]),
        temperature=st.sampled_from([0.0, 0.5]),
        max_new_tokens=st.sampled_from([1, 8]),
        sample=st.integers(0, 2),
    ),
    max_size=25,
)


def prompt_length(llm, prompt):
    """The first token of a text counts, a chat's tokens are the template's."""
    if isinstance(prompt, str):
        return 1 + len(ids_of(llm, prompt))
    messages = [{"role": role, "content": content} for role, content in prompt]
    return len(llm.tokenizer.apply_chat_template(messages, add_generation_prompt=True).input_ids)


@settings(max_examples=50)
@given(work, st.integers(1, 200))
def test_batches_are_a_function_of_the_work_list(tiny, requests, budget):
    llm = TransformersModel(tiny().model, tiny().tokenizer, tiny().source, tokens_per_batch=budget)
    again = TransformersModel(tiny().model, tiny().tokenizer, tiny().source, tokens_per_batch=budget)
    batches = llm.batches(requests)
    assert batches == llm.batches(list(requests)) == again.batches(requests)
    assert sorted(index for batch in batches for index in batch) == list(range(len(requests)))
    for batch in batches:
        group = [requests[index] for index in batch]
        assert len({bool(request.options) for request in group}) == 1
        if not group[0].options:
            assert len({(request.temperature, request.max_new_tokens) for request in group}) == 1
        prompts = [prompt_length(llm, request.prompt) for request in group]
        assert len(group) == 1 or len(group) * max(prompts) <= budget
        padded = [len(r.options) * max((len(ids_of(llm, o)) for o in r.options), default=0) for r in group]
        assert len(group) == 1 or len(group) * max(padded) <= budget


def test_a_batch_is_as_full_as_it_may_be(tiny):
    llm = TransformersModel(tiny().model, tiny().tokenizer, tiny().source, tokens_per_batch=40)
    requests = [Request("x" * n) for n in (9, 9, 19, 9, 9, 99)]  # and <s>
    assert llm.batches(requests) == [[5], [2, 0], [1, 3, 4]]
    assert llm.encode_batches([request.prompt for request in requests]) == llm.batches(requests)
    assert llm.batches([]) == []


# --- written replies


@torch.no_grad()
def greedy_ids(llm, prompt, max_new_tokens, end):
    """The new tokens by one full forward each, the end token among them."""
    ids = [0, *ids_of(llm, prompt)]
    new: list[int] = []
    while len(new) < max_new_tokens and (not new or new[-1] not in end):
        new.append(int(llm.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def naive_greedy(llm, prompt, max_new_tokens, end=(1,)):
    """Text and number of tokens."""
    new = greedy_ids(llm, prompt, max_new_tokens, end)
    return llm.tokenizer.decode(new, skip_special_tokens=True), len(new)


STORIES = [f"{' the question is long' * (i % 4)} {word} {'Paris ' * i}" for i, word in enumerate(CORPUS.split())]


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_text_is_the_most_probable_token_again_and_again(tiny, kind):
    llm = tiny(kind)
    requests = [Request(prompt, max_new_tokens=8) for prompt in PROMPTS]
    replies = llm.reply(requests)
    for request, reply in zip(requests, replies, strict=True):
        assert (reply.text, reply.completion_tokens) == naive_greedy(llm, request.prompt, 8)
        assert (reply.log_probs, reply.option_tokens) == (None, None)
        assert reply.prompt_tokens == 1 + len(ids_of(llm, request.prompt))
    assert llm.reply(requests) == replies


def test_a_reply_that_ends_early_is_counted_with_its_end_token_whatever_the_padding(tiny):
    counts = []
    for pad in ("<pad>", None):
        llm = tiny(pad=pad)
        counts.append([reply.completion_tokens for reply in llm.reply([Request(prompt) for prompt in STORIES])])
    early = counts[0].index(min(counts[0]))
    assert naive_greedy(llm, STORIES[early], 50)[1] == counts[0][early] < max(counts[0]) == 50
    assert counts[0] == counts[1]


def test_every_end_token_of_the_model_ends_a_reply(tiny):
    third = greedy_ids(tiny(), PROMPTS[0], 3, end=())[2]
    llm = tiny(eos_token_id=[1, third])
    replies = llm.reply([Request(prompt, max_new_tokens=8) for prompt in PROMPTS])
    naive = [naive_greedy(llm, prompt, 8, (1, third)) for prompt in PROMPTS]
    assert [(reply.text, reply.completion_tokens) for reply in replies] == naive
    assert replies[0].completion_tokens <= 3


def test_a_model_without_an_end_token_writes_on(tiny):
    llm = tiny(eos_token_id=None)
    replies = llm.reply([Request(prompt, max_new_tokens=8) for prompt in PROMPTS])
    assert [(r.text, r.completion_tokens) for r in replies] == [naive_greedy(llm, p, 8, ()) for p in PROMPTS]


@pytest.mark.parametrize("pad", ["<pad>", None])
def test_greedy_stays_greedy_whatever_the_model_recommends(tiny, pad):
    """A penalty on repetition would also make a reply depend on how far its prompt is padded."""
    llm = tiny(pad=pad, repetition_penalty=1.8, temperature=0.7, top_p=0.5, do_sample=True)
    replies = llm.reply([Request(prompt, max_new_tokens=8) for prompt in PROMPTS])
    assert [(r.text, r.completion_tokens) for r in replies] == [naive_greedy(llm, p, 8) for p in PROMPTS]


def test_a_draw_can_be_repeated_and_samples_differ(tiny):
    requests = [Request("the answer", temperature=1.0, max_new_tokens=8, sample=i) for i in range(16)]
    replies = tiny().reply(requests)
    assert tiny().reply(requests) == replies
    assert len({reply.text for reply in replies}) > 8
    other = tiny().reply([replace(request, sample=request.sample + 100) for request in requests])
    assert other != replies


@pytest.mark.parametrize("temperature", [0.25, 0.4])
def test_draws_follow_the_models_distribution(tiny, temperature):
    """4,000 first tokens: the total variation distance of n draws over k likely tokens is about sqrt(k / n) / 2."""
    llm = tiny()
    n = 4000
    requests = [Request("the answer", temperature=temperature, max_new_tokens=1, sample=i) for i in range(n)]
    drawn = [reply.text for reply in llm.reply(requests)]
    with torch.no_grad():
        logits = llm.model(torch.tensor([[0, *ids_of(llm, "the answer")]])).logits[0, -1]
    probs = (logits.double() / temperature).softmax(-1)
    assert probs.topk(50).values.sum() > 0.999  # so the cut at the fifty most probable tokens changes nothing
    expected = {}
    for token, p in enumerate(probs.tolist()):
        text = llm.tokenizer.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0) + p
    distance = sum(abs(drawn.count(text) / n - p) for text, p in expected.items()) / 2
    assert distance < np.sqrt(50 / n) / 2


def test_global_random_generators_are_left_alone(tiny, tmp_path):
    def states():
        return torch.random.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())

    before = states()
    for request in (Request("A", temperature=1.0, max_new_tokens=4), Request("A", max_new_tokens=4)):
        tiny().reply([request, request])
    tiny().reply([Request("A", OPTIONS)])
    QuestionReader(tiny(), tmp_path / "features").read(QUESTIONS)
    assert states() == before


# --- loading


def test_identity_names_weights_and_arithmetic(tmp_path, monkeypatch):
    folder = save(tmp_path / "One Model")
    one = TransformersModel.load(folder, dtype="float32")
    assert one.identity == TransformersModel.load(folder, dtype="float32").identity
    assert one.identity.endswith(f"one-model-{one.source.sha256[:12]}-float32")
    for precision in ("float32", "bfloat16"):  # whichever is faster on the machine that runs it
        monkeypatch.setattr(local, "faster_precision", lambda device, precision=precision: precision)
        assert TransformersModel.load(folder).identity == one.identity.replace("float32", precision)
    save(tmp_path / "One Model", seed=1)
    assert TransformersModel.load(folder, dtype="float32").identity != one.identity
    assert not any(p.requires_grad for p in one.model.parameters())
    assert one.hidden_size == 16


@pytest.mark.parametrize("shown", [True, False])
def test_loading_shows_no_bar_and_leaves_the_setting_as_it_was(tmp_path, capfd, shown):
    transformers_logging.disable_progress_bar()
    folder = save(tmp_path)
    if shown:
        transformers_logging.enable_progress_bar()
    TransformersModel.load(folder)
    assert transformers_logging.is_progress_bar_enabled() == shown
    transformers_logging.enable_progress_bar()
    assert "Loading" not in "".join(capfd.readouterr())


# --- features


def make_question(text, answer=0):
    return Question(text, ("Paris", "a zebra", "B", "London"), answer, "physics", "en")


QUESTIONS = [make_question(story.strip()) for story in STORIES]


@torch.no_grad()
def naive_features(llm, question):
    ids = torch.tensor([[0, *ids_of(llm, question.render())]])
    hidden = llm.model(ids, output_hidden_states=True).hidden_states[-1][0].double()
    embedding = llm.model.get_input_embeddings()(ids)[0].double()
    return dict(zip(READOUTS, (hidden[-1], hidden.mean(0), embedding.mean(0)), strict=True))


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_features_equal_a_forward_of_every_question_alone(tiny, tmp_path, kind, readout):
    llm = tiny(kind)
    reader = QuestionReader(llm, tmp_path / "features.safetensors")
    features = reader.read(QUESTIONS, readout)
    assert (features.shape, features.dtype) == ((len(QUESTIONS), 16), torch.float32)
    naive = torch.stack([naive_features(llm, question)[readout] for question in QUESTIONS])
    torch.testing.assert_close(features.double(), naive, atol=1e-4, rtol=1e-4)
    spread = features.std(0).mean()
    assert spread > 0.01 if readout != "mean_embedding" else spread > 0.001


def test_every_question_is_read_once(tiny, tmp_path):
    reader = QuestionReader(tiny(), tmp_path / "features.safetensors")
    twice = [*QUESTIONS, *QUESTIONS[::-1]]
    features = reader.read(twice)
    assert reader.forwards == len(QUESTIONS)
    assert torch.equal(features, features.flip(0))
    for readout in READOUTS:
        reader.read(QUESTIONS[3:5], readout)
    assert torch.equal(reader.read(QUESTIONS[::2]), features[: len(QUESTIONS) : 2])
    assert reader.forwards == len(QUESTIONS)


def test_a_second_reader_finds_the_features(tiny, tmp_path):
    path = tmp_path / "below" / "features.safetensors"
    first, second = QuestionReader(tiny(), path), QuestionReader(tiny(), path)
    features = [first.read(QUESTIONS, readout) for readout in READOUTS]
    assert all(torch.equal(second.read(QUESTIONS, r), f) for r, f in zip(READOUTS, features, strict=True))
    assert (first.forwards, second.forwards) == (len(QUESTIONS), 0)
    assert sorted(file.name for file in path.parent.iterdir()) in (
        ["features.safetensors"],
        ["features.safetensors", "features.safetensors.lock"],
    )


def test_features_once_read_stay_when_others_are_added(tiny, tmp_path, monkeypatch):
    """What is missing comes from whole batches of the list, and nothing that is known changes by a bit."""
    llm = TransformersModel(tiny().model, tiny().tokenizer, tiny().source, tokens_per_batch=400)
    reader = QuestionReader(llm, tmp_path / "features.safetensors")
    few = reader.read(QUESTIONS[:4])
    encode = llm.encode
    monkeypatch.setattr(llm, "encode", lambda texts: {name: h + 1 for name, h in encode(texts).items()})  # other bits
    every = reader.read(QUESTIONS)
    assert torch.equal(every[:4], few)
    alone = QuestionReader(tiny(), tmp_path / "alone.safetensors").read(QUESTIONS)
    torch.testing.assert_close(every[4:], alone[4:] + 1, atol=1e-4, rtol=1e-4)
    batches = llm.encode_batches([question.render() for question in QUESTIONS])
    assert len(batches) > 2
    assert reader.forwards == 4 + sum(len(batch) for batch in batches if any(i >= 4 for i in batch))


def test_other_weights_or_another_dtype_are_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    folder = save(tmp_path / "model")
    readers = [QuestionReader.load(folder, dtype=dtype) for dtype in ("float32", "bfloat16")]
    save(tmp_path / "model", seed=1)
    readers.append(QuestionReader.load(folder, dtype="float32"))
    features = [reader.read(QUESTIONS) for reader in readers]
    assert [reader.forwards for reader in readers] == [len(QUESTIONS)] * 3
    assert {reader.path.stem for reader in readers} == {reader.model.identity for reader in readers}
    assert len({reader.path for reader in readers}) == 3
    assert all(f.dtype == torch.float32 for f in features)
    scale = features[0].std()
    assert 0 < (features[0] - features[1]).abs().max() < 0.3 * scale  # bfloat16 has eight significant bits
    assert (features[0] - features[2]).abs().max() > scale


def test_an_unknown_readout_is_one_sentence(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"^The readout is one of last_hidden, .*, not 'first'\.$"):
        QuestionReader(tiny(), tmp_path / "x").read(QUESTIONS, "first")
