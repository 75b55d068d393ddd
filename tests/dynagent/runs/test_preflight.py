"""What a run will need, foreseen from configs alone, against the real models and the real run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig

from dynagent.__main__ import main
from dynagent.llm.local import TOKENS_PER_BATCH, TransformersModel
from dynagent.runs import preflight as module
from dynagent.runs.config import RunConfig
from dynagent.runs.preflight import batch_bytes, empty_model, preflight
from dynagent.runs.record import RunRecord, run_folder
from dynagent.tasks.multiple_choice import load_questions
from tests.support.chat_models import CHAT_KINDS, save_chat_model, save_model_with_own_code

GEMMA_2B = {
    "vocab_size": 256000, "hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 16384,
}  # fmt: skip
GEMMA_7B = {
    "vocab_size": 256000, "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 16, "head_dim": 256, "intermediate_size": 24576,
}  # fmt: skip
LLAMA_3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "tie_word_embeddings": False,
}  # fmt: skip
GB = 10**9


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tiny models, and the configs of the published ones without any weights."""
    folder = tmp_path_factory.mktemp("preflight")
    for kind in CHAT_KINDS:
        save_chat_model(folder / kind, kind)
    GemmaConfig(**GEMMA_2B).save_pretrained(folder / "gemma-2b")
    GemmaConfig(**GEMMA_7B).save_pretrained(folder / "gemma-7b")
    LlamaConfig(**LLAMA_3_8B).save_pretrained(folder / "llama-3-8b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAGENT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def gpu(monkeypatch):
    """Sets what the GPU has free, in GB; None for no GPU."""

    def give(free):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: free is not None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GB), 80 * GB))

    give(None)
    return give


def run_config(place, **changes):
    tiny = {"dataset": "sample", "edge_llm": str(place / "gemma"), "agent_llm": str(place / "llama3")}
    return RunConfig.from_parameters(tiny | {"output_dir": str(place / "runs"), "eval_limit": 10} | changes)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


# --- sizes


@pytest.mark.parametrize("kind", sorted(CHAT_KINDS))
def test_the_number_of_parameters_is_that_of_the_model(place, kind):
    empty = empty_model(str(place / kind))
    real = AutoModelForCausalLM.from_pretrained(place / kind)
    assert num_parameters(empty) == num_parameters(real) == real.num_parameters()
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "number"), [("gemma-2b", 2_506_172_416), ("gemma-7b", 8_537_680_896), ("llama-3-8b", 8_030_261_248)]
)
def test_the_published_numbers_of_parameters(place, name, number):
    """As on the models' pages; tied embeddings count once."""
    assert num_parameters(empty_model(str(place / name))) == number


def test_memory_of_a_batch(place):
    """Of Gemma-2B, written out: 4,096 tokens of prompts, 64 replies of 50 tokens."""
    states = 18 * 2 * 1 * 256 * (4096 + 64 * 50)  # keys and values of all layers
    layer = 4096 * (4 * 2048 + 3 * 16384)
    assert batch_bytes(GemmaConfig(**GEMMA_2B)) == 2 * (states + layer) + 64 * 256000 * 12
    assert batch_bytes(LlamaConfig(**LLAMA_3_8B)) > 32 * 2 * 8 * 128 * 2 * (
        4096 + 64 * 50
    )  # the head's width is derived


@pytest.mark.parametrize("kind", sorted(CHAT_KINDS))
def test_the_cache_of_a_batch_is_what_a_forward_leaves(place, kind):
    """Keys and values as the model itself makes them; the rest of a batch is on top."""
    model = TransformersModel.load(str(place / kind), dtype="bfloat16").model
    num_tokens = 100
    cache = model(torch.zeros(1, num_tokens, dtype=torch.long), use_cache=True).past_key_values
    used = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    config = model.config
    rest = 2 * TOKENS_PER_BATCH[1] * (4 * config.hidden_size + 3 * config.intermediate_size)
    rest += 12 * 64 * config.vocab_size
    assert batch_bytes(config) - rest == used / num_tokens * (TOKENS_PER_BATCH[1] + 64 * 50)


# --- calls


@pytest.mark.parametrize("changes", [
    {"agent_mode": "text", "num_truthful": 3, "num_adversarial": 2, "num_iterations": 4},
    {"agent_mode": "text", "adversary": "constant", "num_truthful": 2, "num_iterations": 30},
    {"agent_mode": "letter", "adversary": "asked", "num_iterations": 4},
    {"agent_mode": "options", "team": "specialists", "num_iterations": 200},
    {"edge_policy": "static", "num_iterations": 2, "train_limit": 5},
])  # fmt: skip
def test_calls_are_those_that_the_run_makes(place, gpu, changes, capsys):
    config = run_config(place, **changes)
    said = preflight(config)
    path = place / "run.json"
    path.write_text(json.dumps(config.to_dict()))
    assert main(["train", str(path)]) == 0
    capsys.readouterr()
    usage = RunRecord.load(run_folder(config) / "record.json").usage
    (asked,) = [use["distinct_calls"] for name, use in usage.items() if name.startswith("agents, ")]
    assert f"calls of the agents to {config.agent_llm}: {asked:,}, about " in said
    read = [use["questions"] for name, use in usage.items() if name.startswith("edge LLM, ")]
    assert [f"questions read by {config.edge_llm}: {number:,}\n" in said for number in read] == [True] * len(read)
    assert ("questions read by" in said) == (config.edge_policy == "dynamic") == bool(read)


def test_two_models_are_asked_and_counted_apart(place, gpu):
    second = str(place / "bluelm")
    config = run_config(
        place, team="two_models", second_agent_llm=second, num_per_domain=3, agent_mode="text", num_iterations=2
    )
    said = preflight(config)
    for name in config.agent_llms:
        assert f"calls of the agents to {name}: {3 * (2 * 4 + 10)}, about " in said
    assert said.count(" GB in bfloat16\n") == 3


def test_time_is_tokens_over_the_stated_rate(place, gpu):
    """Text is four bytes a token and up to 50 tokens are written; a model's size counts in proportion."""
    gpu(80)
    config = run_config(place, agent_mode="text", num_truthful=2, num_adversarial=0, edge_policy="static")
    number = num_parameters(empty_model(config.agent_llm))
    minutes = [float(preflight(config, rate).split("time: about ")[1].split()[0]) for rate in (1e-6, 2e-6)]
    assert minutes[0] == pytest.approx(2 * minutes[1], rel=0.01)
    calls = 2 * (52 + 10)
    tokens = minutes[0] * 60 * 1e-6 * 7e9 / number
    assert 50 + 60 < tokens / calls < 50 + 250
    assert "assumed: 1,500 tokens a second" in preflight(config)
    gpu(None)
    last = preflight(config).splitlines()[-1]
    assert last == "time: not known on a CPU; `python -m dynagent train` measures a pilot"


# --- does it fit?


@pytest.fixture
def without_weights(monkeypatch):
    """Configs alone are enough for what is computed here; a run would miss the weights when it loads its questions."""
    questions = load_questions("sample", "train"), load_questions("sample", "test")
    monkeypatch.setattr(module, "load_split_questions", lambda config: questions)


@pytest.mark.usefixtures("without_weights")
def test_it_fits_or_one_sentence_says_why_not(place, gpu):
    config = run_config(place, edge_llm=str(place / "gemma-2b"), agent_llm=str(place / "llama-3-8b"))
    gpu(80)
    said = preflight(config)
    assert "2,506,172,416 parameters, 5.01 GB in bfloat16" in said
    assert "8,030,261,248 parameters, 16.06 GB in bfloat16" in said
    weights = 2 * (2_506_172_416 + 8_030_261_248)
    batch = batch_bytes(LlamaConfig(**LLAMA_3_8B))
    assert batch > batch_bytes(GemmaConfig(**GEMMA_2B))  # the larger one counts
    need = (weights + batch + 1.5e9) / GB
    assert f"memory: {weights / GB:.1f} GB of weights, and {batch / GB:.1f} GB for a full batch\n" in said
    assert f"GPU: 80.0 of 80.0 GB are free, and {need:.1f} GB are needed\n" in said
    gpu(need + 0.01)
    assert preflight(config)
    gpu(need - 0.01)
    with pytest.raises(ValueError) as caught:
        preflight(config)
    assert str(caught.value).startswith(f"The run needs a CUDA GPU with {need:.1f} GB of free memory, and here ")
    assert str(caught.value).endswith("choose smaller models.")
    assert "of 80.0 GB are free" in str(caught.value)


@pytest.mark.usefixtures("without_weights")
def test_one_model_in_both_roles_is_counted_once(place, gpu):
    gpu(80)
    name = str(place / "gemma-2b")
    assert "memory: 5.0 GB of weights" in preflight(run_config(place, edge_llm=name, agent_llm=name))


def test_only_the_preset_paper_needs_a_gpu(place, gpu):
    assert "GPU: none, so the run uses the CPU" in preflight(run_config(place))
    with pytest.raises(ValueError, match=r"^The run needs a CUDA GPU with .* GB .* there is none: take another"):
        preflight(run_config(place, preset="paper", dataset="sample"))


def test_memory_is_checked_before_any_question_is_loaded(place, gpu, monkeypatch):
    monkeypatch.setattr(module, "load_split_questions", lambda config: pytest.fail("questions were loaded"))
    with pytest.raises(ValueError, match="there is none"):
        preflight(run_config(place, preset="paper"))


# --- what cannot be known


def test_an_unreadable_config_is_said_and_nothing_is_guessed(place, gpu, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    with pytest.raises(ValueError, match=r"^The config of google/gemma-2b could not be read, so that its size is unk"):
        preflight(run_config(place, edge_llm="google/gemma-2b"))
    (place / "empty").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"^The config of .*empty could not be read, so that its size is unknown: "):
        empty_model(str(place / "empty"))


def test_a_models_own_code_is_not_run_for_its_size_either(place, tmp_path, monkeypatch):
    own = save_model_with_own_code(tmp_path / "own")
    with pytest.raises(ValueError, match="comes with code of its own, which is not run unasked"):
        empty_model(own)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    assert num_parameters(empty_model(own, trust_remote_code=True)) == num_parameters(
        empty_model(str(place / "bluelm"))
    )


@pytest.mark.parametrize("changes", [{"data_source": "recordings", "dataset": "mmlu"}, {"tune": "lora"}])
def test_replays_and_tuning_are_not_foreseen(place, gpu, changes):
    with pytest.raises(ValueError, match="Nothing is known beforehand of replays and tuning"):
        preflight(run_config(place, **changes))


# --- the program


def test_the_program(place, gpu, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_config(place).to_dict()))
    assert main(["preflight", str(path)]) == 0
    assert capsys.readouterr().out == preflight(run_config(place))
    path.write_text(json.dumps(run_config(place, preset="paper", dataset="sample").to_dict()))
    assert main(["preflight", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("dynagent: The run needs a CUDA GPU")


@pytest.mark.slow
def test_the_command(place, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_config(place).to_dict()))
    done = subprocess.run(
        [sys.executable, "-m", "dynagent", "preflight", str(path)],
        cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 7
