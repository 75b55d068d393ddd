"""Tiny randomly initialised chat models that behave like those of the paper: Gemma, Llama 3 and BlueLM."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, GemmaConfig, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

GEMMA_TEMPLATE = (  # refuses a system message
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
BLUELM_TEMPLATE = (  # leaves a system message out without a word
    "{% for m in messages %}{% if m.role == 'user' %}[|Human|]:{{ m.content }}"
    "{% elif m.role == 'assistant' %}[|AI|]:{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[|AI|]:{% endif %}"
)


@dataclass(frozen=True)
class ChatKind:
    """What distinguishes a family of chat models; the first special tokens are those that begin and end a text."""

    config: Any
    template: str
    special: tuple[str, ...]
    stop: tuple[str, ...]
    pad: str | None
    options: dict[str, Any] = field(default_factory=dict)


CHAT_KINDS = {
    "gemma": ChatKind(
        GemmaConfig,
        GEMMA_TEMPLATE,
        ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
        "<pad>",
        {"head_dim": 16, "tie_word_embeddings": True},
    ),
    "llama3": ChatKind(
        LlamaConfig,
        LLAMA3_TEMPLATE,
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        None,
    ),
    "bluelm": ChatKind(
        LlamaConfig, BLUELM_TEMPLATE, ("<s>", "</s>", "<unk>", "[|Human|]:", "[|AI|]:"), ("</s>",), "<unk>"
    ),
}


def save_chat_model(
    folder: Path, kind: str, seed: int = 0, template: bool = True, listed_stops: int | None = None
) -> str:
    """Write a model of two layers and a tokenizer of bytes; returns the folder.

    Stop tokens are made likely, so that replies end at different lengths. The generation config lists the first
    `listed_stops` of them, by default all.
    """
    this = CHAT_KINDS[kind]
    symbols = [*this.special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    begin, end = this.special[:2]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in this.special])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=this.pad)
    wrapped.chat_template = this.template if template else None
    wrapped.save_pretrained(folder)

    config = this.config(
        vocab_size=len(symbols),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None if this.pad is None else ids[this.pad],
        **this.options,
    )
    stops = [ids[token] for token in this.stop]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).bfloat16()
    with torch.no_grad():
        model.get_output_embeddings().weight[stops] *= 1.7
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=stops[:listed_stops], pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    return str(folder)


def save_model_with_own_code(folder: Path, seed: int = 0) -> str:
    """A model whose config and architecture are Python files beside its weights, as BlueLM is published."""
    save_chat_model(folder, "bluelm", seed)
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "own", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    path.write_text(json.dumps(config))
    return str(folder)
