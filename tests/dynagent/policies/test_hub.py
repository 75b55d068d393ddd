"""A policy pushes and loads like any model, its card says what its record does, and another team is warned of.

The hub is imitated on this machine: huggingface_hub's own client makes its usual requests to a small server.
"""

import base64
import hashlib
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

from dynagent.evaluation.evaluate import evaluate
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.policies.base import team_of
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.record import RunRecord
from dynagent.team.agents import Specialist, Truthful
from dynagent.team.votes import MajorityVote
from tests.support.toy import Knows, Lucky, ToyPolicy, toy_questions

ROOT = Path(__file__).resolve().parents[3]
RUNS = sorted(ROOT.glob("results/acceptance/*/record.json"))


class NamedLLM:
    identity = "tiny-0123456789ab-float32"


GRAPH = AgentGraph(
    [Specialist(NamedLLM(), domain="en")] * 2 + [Specialist(NamedLLM(), domain="zh")] * 2, MajorityVote()
)


def trained_policy() -> EdgePolicy:
    """With weights that are not the initial ones, a team and a record."""
    policy = EdgePolicy(4, GRAPH.num_edges, "tiny", "tiny-0123456789ab-float32", about={"team": team_of(GRAPH)})
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    policy.note(record=RunRecord.load(RUNS[0]).card())
    return policy


# --- the hub, imitated


class Hub(ThreadingHTTPServer):
    """Repositories of files in memory, and what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments):
        pass

    def reply(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, [given.get("organization") or "me", given["name"]]))
            self.server.files.setdefault(name, {})
            self.reply({"url": f"{self.server.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.server.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply(
                {"commitUrl": f"{self.server.address}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True}
            )
        else:
            self.reply({"error": f"no such place: {path}"}, 404)

    def do_GET(self):
        self.server.asked.append(self.path)
        name, _, file = self.path.strip("/").partition("/resolve/main/")
        content = self.server.files.get(name, {}).get(file)
        if content is None:
            self.reply({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
        else:
            self.reply(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit="1" * 40)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def test_a_policy_is_pushed_and_loaded(hub, tmp_path):
    policy = trained_policy()
    policy.push_to_hub("me/wiring", token="a-token")
    assert set(hub.files["me/wiring"]) == {"README.md", "config.json", "model.safetensors"}
    loaded = EdgePolicy.from_pretrained("me/wiring", cache_dir=tmp_path / "cache")
    assert torch.equal(loaded.head.weight, policy.head.weight)
    assert loaded.about == policy.about
    assert not loaded.training
    loaded.push_to_hub("you/copy", token="a-token")  # a policy that was loaded brings its card along
    assert hub.files["you/copy"] == hub.files["me/wiring"]
    assert not any("token" in text for text in hub.asked)


# --- what is saved


@pytest.mark.parametrize("policy", [trained_policy(), StaticEdgePolicy.for_graph(GRAPH)], ids=["dynamic", "static"])
def test_team_and_record_come_back(policy, tmp_path):
    policy.save_pretrained(tmp_path)
    loaded = type(policy).from_pretrained(tmp_path)
    assert loaded.about == policy.about
    assert loaded.about["team"][2] == "Specialist(zh) (group zh, LLM tiny-0123456789ab-float32)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.check_team(GRAPH)


def test_an_agent_without_a_language_model_has_none():
    assert team_of(AgentGraph([Knows()], None)) == ["Knows (group knowing, LLM none)"]


@pytest.mark.parametrize("record", RUNS, ids=lambda path: path.parent.name)
def test_folders_saved_before_policies_knew_their_team_load(record):
    policy = EdgePolicy.from_pretrained(record.parent / "policy")
    assert policy.about == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.check_team(GRAPH)  # what it was made for is not known


# --- another team


def agents(*domains, llm=None):
    return AgentGraph([Specialist(llm or NamedLLM(), domain=domain) for domain in domains], MajorityVote())


class OtherLLM:
    identity = "other-0123456789ab-float32"


OTHERS = {
    "order": (agents("en", "zh", "en", "zh"), "agent 2 was Specialist\\(en\\) .* and is Specialist\\(zh\\) .*; 2 of 4"),
    "model": (
        agents("en", "en", "zh", "zh", llm=OtherLLM()),
        "agent 1 was .* LLM tiny.* and is .* LLM other.*; 4 of 4",
    ),
    "number": (agents("en", "en", "zh"), "agent 4 was Specialist.* and is missing; 1 of 4"),
    "kind": (AgentGraph([Truthful(NamedLLM())] * 4, MajorityVote()), "and is Truthful \\(group truthful.*; 4 of 4"),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_another_team_is_warned_of_in_one_sentence(difference):
    graph, sentence = OTHERS[difference]
    with pytest.warns(UserWarning, match=sentence) as warned:
        trained_policy().check_team(graph)
    assert len(warned) == 1
    assert str(warned[0].message).startswith("This policy was made for another team: ")
    assert str(warned[0].message).endswith(" agents differ.")


def test_the_same_weights_in_another_precision_are_the_same_team():
    llm = NamedLLM()
    llm.identity = llm.identity.replace("float32", "bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained_policy().check_team(agents("en", "en", "zh", "zh", llm=llm))


def test_training_and_evaluation_warn_by_themselves():
    made_for, given = (AgentGraph([Knows((kind,)), Lucky(0.5)], MajorityVote()) for kind in (0, 1))
    given.nodes[0] = type(given.nodes[0])("Changed", "knowing", 0, given.team[0])
    questions = toy_questions(8)
    for policy in (
        StaticEdgePolicy.for_graph(made_for),
        ToyPolicy(3, made_for.num_edges, about={"team": team_of(made_for)}),
    ):
        with pytest.warns(UserWarning, match="another team"):
            evaluate(policy, given, questions, num_graphs=2)
        with pytest.warns(UserWarning, match="another team"):
            train(policy, given, questions, TrainConfig(num_iterations=1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(policy, made_for, questions, num_graphs=2)


def test_a_policy_that_is_trained_again_forgets_what_it_was_judged_on():
    graph = AgentGraph([Knows(), Lucky(0.5)], MajorityVote())
    policy = StaticEdgePolicy.for_graph(graph)
    policy.note(record=trained_policy().about["record"])
    train(policy, graph, toy_questions(8), TrainConfig(num_iterations=1))
    assert policy.about["record"] is None
    assert "No record of a training" in str(policy.generate_model_card())
    assert policy.about["team"] == team_of(graph)


# --- the card


@pytest.mark.parametrize("path", RUNS[:1] + RUNS[-1:], ids=lambda path: path.parent.name)
def test_the_card_says_what_the_record_does(path):
    record = RunRecord.load(path)
    policy = trained_policy()
    policy.note(record=record.card())
    card = policy.generate_model_card()
    for name, wiring in record.metrics["wirings"].items():
        accuracy = wiring["accuracy"]
        numbers = f"{accuracy.mean:.3f} | {accuracy.ci_low:.3f} to {accuracy.ci_high:.3f} | {accuracy.n}"
        assert f"| {name} | {numbers} |" in card.content
    for text in (
        *team_of(GRAPH), "tiny-0123456789ab-float32", record.code.commit, record.command, "estimator exact",
        "arxiv.org/abs/2406.11555", f"On {record.questions['training'].n} questions", "import EdgePolicy",
        *(used.sha256[:16] for used in record.inputs),
    ):  # fmt: skip
        assert text in card.content


def test_the_cards_metadata_are_the_hubs():
    data = trained_policy().generate_model_card().data
    assert (data.license, data.library_name, data.language, data.datasets) == ("mit", "dynagent", ["en"], ["cais/mmlu"])
    assert {"language-agents", "pytorch_model_hub_mixin"} <= set(data.tags)
    assert data.metrics == ["accuracy"]
    record = RunRecord.load(RUNS[0])
    results = {result.metric_name: result for result in data.eval_results}
    assert set(results) == {"learned, sampled", "learned, most probable"}
    for name, result in results.items():
        assert (result.task_type, result.dataset_type, result.metric_type) == (
            "multiple-choice",
            "cais/mmlu",
            "accuracy",
        )
        assert result.metric_value == pytest.approx(record.metrics["wirings"][name]["accuracy"].mean, abs=1e-4)


def with_sources(*licences, dataset="mmlu"):
    policy = trained_policy()
    record = json.loads(json.dumps(policy.about["record"]))
    record["sources"] = [{"name": "x", "kind": "hub", "licence": licence, "sha256": "0" * 64} for licence in licences]
    record["parameters"]["dataset"] = dataset
    policy.note(record=record)
    return policy.generate_model_card().data


def test_the_licence_is_that_of_the_strictest_source():
    assert with_sources("MIT", "Apache-2.0").license == "mit"
    assert with_sources("MIT", "CC-BY-NC-SA-4.0", "Apache-2.0").license == "cc-by-nc-sa-4.0"
    assert with_sources("MIT", "Gemma Terms of Use").license == "other"
    assert with_sources("CC-BY-NC-SA-4.0", "unknown").license == "other"


@pytest.mark.parametrize(
    ("dataset", "languages", "datasets"),
    [("cmmlu", ["zh"], ["haonan-li/cmmlu"]), ("mixed", ["en", "zh"], ["cais/mmlu", "haonan-li/cmmlu"]),
     ("sample", ["en", "zh"], [])],
)  # fmt: skip
def test_data_sets_are_named_as_on_the_hub(dataset, languages, datasets):
    data = with_sources("MIT", dataset=dataset)
    assert (data.language, data.datasets) == (languages, datasets)


def test_a_card_without_a_record_claims_nothing(tmp_path):
    StaticEdgePolicy(4).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "dynagent"
    assert card.data.eval_results is None
    assert "cannot say how good it is" in card.content
    assert "accuracy" not in card.content
