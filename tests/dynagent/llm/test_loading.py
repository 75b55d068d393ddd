"""What a model folder may be: whole, causal and runnable here; anything else is one sentence that names it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dynagent.artefacts.sources import Source
from dynagent.artefacts.weights import check_files
from dynagent.llm.base import Request
from dynagent.llm.local import TransformersModel
from tests.support.chat_models import save_chat_model
from tests.support.toy import save_tiny_backbone

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4976698672\n"
SIZES = {
    "vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GPT = {"vocab_size": 257, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
RECURRENT = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
ARCHITECTURES = {
    "Llama": SIZES, "GPT2": GPT | {"n_positions": 256}, "GPTNeoX": SIZES, "Phi3": SIZES | {"sliding_window": 16},
    "Mistral": SIZES | {"sliding_window": 16, "head_dim": 16},
    "Gemma3Text": SIZES | {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "Bloom": {"vocab_size": 257, "hidden_size": 32, "n_layer": 2, "n_head": 2}, "Lfm2": SIZES,
    "Mamba": RECURRENT | {"state_size": 4, "pad_token_id": 0},
    "Rwkv": RECURRENT | {"attention_hidden_size": 32, "intermediate_size": 64},
    "RecurrentGemma": RECURRENT | {
        "num_hidden_layers": 3, "intermediate_size": 96, "num_attention_heads": 2, "lru_width": 32, "head_dim": 16,
        "attention_window_size": 16, "pad_token_id": 0,
    },
}  # fmt: skip
PROMPTS = ("short", "a somewhat longer prompt with words", "x" * 50 + " beyond the window")
OPTIONS = (" one", " two and more", " three")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Path(save_tiny_backbone(tmp_path_factory.mktemp("whole") / "model"))


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def refusal(folder, capfd):
    with pytest.raises(ValueError) as error:
        TransformersModel.load(str(folder), dtype="float32")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert "Traceback" not in capfd.readouterr().err
    return str(error.value)


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def header_damaged(file):
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"#" * 20 + content[28:])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut, "cut off within the tensor"),
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(b"abc"), "is not whole"),
        (lambda file: file.write_text(POINTER), "pointer of Git LFS.*git lfs pull"),
        (lambda file: file.write_bytes(file.read_bytes() + b"more"), "longer than its header says"),
        (header_damaged, "damaged in its header"),
    ],
)
def test_weights_that_are_not_whole_are_refused_by_the_name_of_the_file(damage, sentence, folder, capfd):
    damage(folder / "model.safetensors")
    said = refusal(folder, capfd)
    assert "model.safetensors" in said
    with pytest.raises(ValueError, match=sentence):
        check_files(folder)


@pytest.mark.parametrize("content", [POINTER, "", '{"version": "1.0", "tru'])
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_other_files_are_checked_too(name, content, folder, capfd):
    (folder / name).write_text(content)
    assert name in refusal(folder, capfd)


def test_missing_tensors_are_named_and_never_drawn_at_random(folder, capfd):
    change_tensors(folder, lambda tensors: {name: value for name, value in tensors.items() if "layers.1" not in name})
    said = refusal(folder, capfd)
    assert "lacks weights, in model.safetensors: model.layers.1." in said
    assert "more" in said


def test_tensors_of_another_shape_are_named_with_both_shapes(folder, capfd):
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    change_config(folder, vocab_size=300)
    said = refusal(folder, capfd)
    assert "another shape" in said
    assert f"(300, {width})" in said


def test_a_shard_that_is_not_there_or_lacks_a_tensor_is_named(folder):
    index = folder / "model.safetensors.index.json"
    for shard, tensor, sentence in (
        ("model-2.safetensors", "a.weight", r"model-2.safetensors is not there, which holds a.weight"),
        ("model.safetensors", "a.weight", r"model.safetensors lacks the tensor a.weight"),
    ):
        index.write_text(json.dumps({"weight_map": {tensor: shard}}))
        with pytest.raises(ValueError, match=sentence):
            check_files(folder)


@pytest.mark.parametrize(
    "how",
    [
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "never_heard_of"},
    ],
    ids=lambda how: how["quant_method"],
)
def test_a_quantised_model_says_what_it_needs(how, folder, capfd):
    change_config(folder, quantization_config=how)
    said = refusal(folder, capfd)
    assert f"quantised with {how['quant_method']}" in said
    assert "pip install" in said


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=257, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ), r"an encoder with a decoder \(t5\)"),
        (lambda: transformers.BertForMaskedLM(transformers.BertConfig(
            vocab_size=257, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )), r"an encoder \(bert\)"),
        (lambda: transformers.ViTModel(transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16
        )), r"no causal language model that transformers knows \(vit\)"),
    ],
    ids=["t5", "bert", "vit"],
)  # fmt: skip
def test_a_model_that_does_not_write_from_left_to_right_is_refused(model, what, folder, capfd):
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    model().save_pretrained(folder)
    with pytest.raises(ValueError, match=what):
        TransformersModel.load(str(folder), dtype="float32")
    refusal(folder, capfd)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_scores_features_and_texts_in_a_batch_are_those_of_every_request_alone(kind, whole):
    tokenizer = AutoTokenizer.from_pretrained(whole)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**ARCHITECTURES[kind])
        model = AutoModelForCausalLM.from_config(config).float()
    model.generation_config.eos_token_id = None
    llm = TransformersModel(model, tokenizer, Source("t", "own", "t", None, "0" * 64, "x"), tokens_per_batch=4096)

    def alone(prompt, option):
        head, tail = tokenizer(prompt).input_ids, tokenizer(option, add_special_tokens=False).input_ids
        log_probs = model(torch.tensor([head + tail]), use_cache=False).logits[0].float().log_softmax(-1)
        return sum(log_probs[len(head) - 1 + place, token].item() for place, token in enumerate(tail))

    for prompt, reply in zip(PROMPTS, llm.reply([Request(prompt, OPTIONS) for prompt in PROMPTS]), strict=True):
        assert reply.log_probs == pytest.approx([alone(prompt, option) for option in OPTIONS], abs=1e-3)
    together = llm.encode(PROMPTS)
    for place, prompt in enumerate(PROMPTS):
        for name, features in llm.encode([prompt]).items():
            assert torch.allclose(together[name][place], features[0], atol=1e-3)
    asks = [Request(prompt, max_new_tokens=4) for prompt in PROMPTS]
    assert [reply.text for reply in llm.reply(asks)] == [llm.reply([ask])[0].text for ask in asks]


def test_a_prompt_and_what_is_to_be_written_have_to_fit_before_anything_is_asked(folder):
    change_config(folder, max_position_embeddings=60)
    llm = TransformersModel.load(str(folder), dtype="float32")
    short, long = Request("x" * 20, max_new_tokens=30), Request("x" * 20, max_new_tokens=60)
    assert len(llm.batches([short])) == 1
    with pytest.raises(ValueError, match="and 60 that are to follow, is longer than the 60"):
        llm.batches([short, long])
    with pytest.raises(ValueError, match="that are to follow"):
        llm.batches([Request("x" * 50, ("y" * 5, "z" * 30))])


# --- thoughts

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
SWITCHED = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


@pytest.mark.parametrize(
    ("opening", "end", "thoughts"),
    [
        ("<|assistant|>", "<|assistant|>", ""),
        ("<|assistant|><think>\n", "<think>\n\n</think>\n\n", "thoughts closed"),
        ("<|assistant|>[THINK]", "[THINK]\n\n[/THINK]\n\n", "thoughts closed"),
        ("<|assistant|><seed:think>", "<seed:think>\n\n</seed:think>\n\n", "thoughts closed"),
        (f"<|assistant|>{SWITCHED}", "<think>\n\n</think>\n\n", "thoughts switched off"),
    ],
)
def test_thoughts_that_a_template_begins_are_closed_and_on_record(opening, end, thoughts, tmp_path):
    plain = TransformersModel.load(save_chat_model(tmp_path / "model", "llama3"), dtype="float32")
    tokenizer = plain.tokenizer
    tokenizer.chat_template = f"{TURNS}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    llm = TransformersModel(plain.model, tokenizer, plain.source)
    chat = (("system", "Be brief."), ("user", "What does <think> mean?"))
    assert llm._render(chat).endswith(f"mean?\n<|assistant|>{end.removeprefix('<|assistant|>')}")
    assert (llm.source.revision or "") == thoughts
    assert (llm.identity == plain.identity) == (not thoughts)
    assert llm.source.sha256 == plain.source.sha256
