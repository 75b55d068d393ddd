"""A run as a whole: questions, team and policy from its parameters, and a record that a plain computation confirms."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from dynagent.__main__ import main
from dynagent.artefacts.sources import Source
from dynagent.evaluation.evaluate import evaluate
from dynagent.execution.runner import Runner
from dynagent.llm.base import Reply
from dynagent.llm.store import Recorded
from dynagent.policies.base import initial_probability, logit
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs import build as experiment
from dynagent.runs import paths
from dynagent.runs import run as run_module
from dynagent.runs.build import build_graph, build_policy, load_split_questions, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment
from dynagent.runs.provenance import code_version, questions_digest
from dynagent.runs.record import QuestionSet, RunRecord, run_folder
from dynagent.runs.run import run_experiment, train_all
from dynagent.tasks.multiple_choice import Question, load_questions
from dynagent.team.agents import AREAS, Adversarial, Constant, Specialist, Truthful
from tests.support.toy import free_port, save_tiny_backbone

ROOT = Path(__file__).resolve().parents[3]


class FakeModel:
    """Scores that depend on the request alone."""

    identity = "fake-0123456789ab-float32"
    source = Source("fake", "folder", "models/fake", None, "0" * 64, "MIT")

    def batches(self, requests):
        return [list(range(len(requests)))]

    def reply(self, requests):
        return [Reply(None, self.scores(request), (1, 2, 1, 3), 11, 7) for request in requests]

    def scores(self, request):
        digest = hashlib.sha256(str((request.prompt, request.options)).encode()).digest()
        return tuple(-digest[i] / 40 for i in range(4))


@pytest.fixture
def asked_for(monkeypatch, tmp_path) -> list[str]:
    """The names under which a language model was loaded; each gives the fake."""
    names: list[str] = []

    def load_llm(name, trust_remote_code, concurrency, budget, max_new_tokens, request_options, ask_again):
        assert (max_new_tokens, request_options, ask_again) == (None, None, False)
        assert trust_remote_code is False  # unless asked
        assert (concurrency, budget.tokens) == (8, float("inf"))
        names.append(name)
        return Recorded(FakeModel(), tmp_path / "calls.jsonl")

    monkeypatch.setattr(experiment, "load_llm", load_llm)
    return names


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project's root with a tiny model in models/tiny."""
    root = tmp_path_factory.mktemp("root")
    save_tiny_backbone(root / "models" / "tiny")
    return root


def run_config(**changes) -> RunConfig:
    """A small run of the sample with a static policy."""
    small = {"dataset": "sample", "eval_limit": "all", "edge_policy": "static", "num_iterations": 20, "batch_size": 4}
    return RunConfig(**(small | changes))


def question(number: int, subject: str = "mathematics") -> Question:
    return Question(f"question {number}", ("one", "two", "three", "four"), number % 4, subject, "en")


# --- questions


@pytest.mark.parametrize("limits", [("all", "all"), (7, 9), (1, "all"), (1000, 1)])
def test_training_and_evaluation_share_no_question(limits):
    train, held_out = load_split_questions(run_config(train_limit=limits[0], eval_limit=limits[1]))
    whole = {split: load_questions("sample", split) for split in ("train", "test")}
    sizes = [len(whole[split]) if limit == "all" else min(limit, len(whole[split]))
             for split, limit in zip(whole, limits, strict=True)]  # fmt: skip
    assert [len(train), len(held_out)] == sizes
    assert not {q.id for q in train} & {q.id for q in held_out}
    assert train.items == whole["train"].items[: sizes[0]]
    assert held_out.items == whole["test"].items[: sizes[1]]
    assert len(whole["train"]) + len(whole["test"]) == 160


def give_questions(monkeypatch, train, test):
    """Let the splits be these questions; returns what was asked for."""
    asked = []

    def load(dataset, split, source, limit):
        asked.append((dataset, split, source, limit))
        like = load_questions("sample", split)
        return replace(like, items=tuple(train if split == "train" else test))

    monkeypatch.setattr(experiment, "load_questions", load)
    return asked


def test_shared_questions_are_held_out_from_training(monkeypatch):
    asked = give_questions(monkeypatch, map(question, range(8)), map(question, range(5, 12)))
    train, held_out = load_split_questions(run_config(train_limit=20))
    assert [q.text for q in train] == [f"question {i}" for i in range(5)]
    assert [q.text for q in held_out] == [f"question {i}" for i in range(5, 12)]
    assert asked == [("sample", "train", "package", 20), ("sample", "test", "package", None)]


def test_only_a_complete_overlap_is_an_error(monkeypatch):
    give_questions(monkeypatch, map(question, (3, 4, 5)), map(question, (1, 2, 3, 4, 5)))
    with pytest.raises(ValueError, match=r"All training questions of split 'train' .* split 'test'"):
        load_split_questions(run_config())


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_subject_without_an_area_is_found_before_a_model_is_loaded(monkeypatch, asked_for, split):
    strange = [question(0), question(1, subject="alchemy")]
    others = [question(2)]
    give_questions(monkeypatch, *((strange, others) if split == "train" else (others, strange)))
    with pytest.raises(ValueError, match="'alchemy'"):
        prepare(run_config())
    assert asked_for == []


@pytest.mark.parametrize("name", ["agent_llm", "edge_llm"])
def test_a_bad_model_name_is_refused_before_questions_are_loaded(monkeypatch, name):
    asked = give_questions(monkeypatch, [question(0)], [question(1)])
    with pytest.raises((ValueError, OSError), match="smolm2-135m-instruct"):
        load_split_questions(run_config(**{name: "smolm2-135m-instruct"}))
    assert asked == []


def test_relative_folders_start_at_the_projects_root(monkeypatch, tmp_path, root, asked_for):
    monkeypatch.setattr(paths, "project_root", lambda: root)
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    asked = give_questions(monkeypatch, [question(0)], [question(1)])
    config = run_config(
        agent_llm="models/tiny", edge_llm="models/tiny", edge_policy="dynamic", data_source="data", output_dir="out"
    )
    load_split_questions(config)
    assert {source for _, _, source, _ in asked} == {str(root / "data")}
    graph = build_graph(config)
    assert asked_for == [str(root / "models" / "tiny")]
    policy = build_policy(config, graph)
    assert policy.backbone == str(root / "models" / "tiny")
    assert run_folder(config).parent == root / "out"


# --- team and policy


def test_the_adversarial_team(asked_for):
    graph = build_graph(run_config(num_truthful=2, num_adversarial=3, temperature=0.7, agent_mode="letter"))
    assert [type(agent) for agent in graph.team] == [Truthful] * 2 + [Adversarial] * 3
    assert {(agent.mode, agent.temperature, agent.lying) for agent in graph.team} == {("letter", 0.7, "least_likely")}
    assert len({id(agent.llm) for agent in graph.team}) == 1
    assert asked_for == ["smollm2-135m-instruct"]
    assert (graph.num_nodes, graph.num_edges, graph.groups) == (6, 25, ["truthful", "adversarial"])


@pytest.mark.usefixtures("asked_for")
@pytest.mark.parametrize(
    ("adversary", "kind", "lying"),
    [("least_likely", Adversarial, "least_likely"), ("asked", Adversarial, "asked"), ("constant", Constant, None)],
)
def test_how_an_adversary_misleads(adversary, kind, lying):
    team = build_graph(run_config(adversary=adversary, agent_mode="letter")).team
    assert [type(agent) for agent in team] == [Truthful] * 4 + [kind] * 4
    assert getattr(team[-1], "lying", None) == lying
    assert [agent.group for agent in team] == ["truthful"] * 4 + ["adversarial"] * 4
    wrong = question(0)
    if adversary == "constant":
        assert team[-1].letter == "A"
        assert team[-1].answer(wrong, None, 0.99) == 0
    else:
        assert team[-1].asks_for_wrong(wrong) == (adversary == "asked")
        assert not team[0].asks_for_wrong(wrong)


@pytest.mark.usefixtures("asked_for")
@pytest.mark.parametrize(("team", "domains"), [("specialists", AREAS), ("languages", ("en", "zh"))])
def test_a_specialist_for_every_domain(team, domains):
    agents = build_graph(run_config(team=team, num_per_domain=3)).team
    assert all(type(agent) is Specialist for agent in agents)
    assert [agent.domain for agent in agents] == [domain for domain in domains for _ in range(3)]
    stem = question(0)
    assert Counter(agent.domain for agent in agents if agent.tells_truth(stem)) == {domains[0]: 3}  # stem, or English


def test_a_static_policy_is_one_logit_an_edge(asked_for):
    config = run_config(initial_probability=0.25)
    graph = build_graph(config)
    policy = build_policy(config, graph)
    assert type(policy) is StaticEdgePolicy
    logits = policy.edge_logits_of([question(0), question(1)])
    assert logits.shape == (2, 64)
    assert torch.allclose(logits.sigmoid(), torch.tensor(0.25))
    assert len(asked_for) == 1  # no edge LLM


# --- a complete run


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


class Plain:
    """Answers and votes of the adversarial team without the library's runner: loops over questions and agents."""

    def __init__(self, config: RunConfig, graph) -> None:
        self.config, self.graph, self.model = config, graph, FakeModel()

    def answer(self, q: Question, node: int) -> int:
        agent = self.graph.team[node]
        scores = torch.tensor(self.model.scores(agent.request(q)), dtype=torch.float64) / torch.tensor([1, 2, 1, 3])
        sign = 1 if isinstance(agent, Truthful) and not isinstance(agent, Adversarial) else -1
        weights = (sign * scores / self.config.temperature).exp()
        digest = hashlib.sha256(f"{self.config.seed}/{q.id}/{node}".encode()).digest()
        draw, option = int.from_bytes(digest[:6], "big") / 2**48, 0
        while option < 3 and draw >= float(weights[: option + 1].sum() / weights.sum()):
            option += 1
        return option

    def vote(self, q: Question, nodes) -> float:
        """Probability that the majority of these agents is right."""
        votes = Counter(self.answer(q, node) for node in nodes)
        winners = [option for option, count in votes.items() if count == max(votes.values())]
        return (q.answer in winners) / len(winners) if winners else 0.0


@pytest.fixture
def finished(asked_for, tmp_path):
    config = run_config(num_truthful=3, num_adversarial=2, seed=3, output_dir=str(tmp_path / "runs"))
    folder = run_experiment(config, "make this")
    return config, folder, RunRecord.load(folder / "record.json")


def test_a_run_is_what_a_plain_computation_gives(finished):
    config, folder, record = finished
    train_questions, questions = load_split_questions(config)
    graph = build_graph(config)
    plain = Plain(config, graph)
    loaded = StaticEdgePolicy.from_pretrained(folder / "policy")
    probs = loaded.edge_logits.detach().sigmoid()[graph.decision_edges].tolist()  # [N]
    likely = [node for node in range(5) if probs[node] >= 0.5]
    wirings = record.metrics["wirings"]
    assert "static, sampled" not in wirings  # there is no second policy beside a static one
    means = {name: wiring["accuracy"].mean for name, wiring in wirings.items()}
    assert means["full graph"] == pytest.approx(mean(plain.vote(q, range(5)) for q in questions))
    assert means["learned, most probable"] == pytest.approx(mean(plain.vote(q, likely) for q in questions))
    told = means["truthful agents only (told, not learned)"]
    assert told == pytest.approx(mean(plain.vote(q, range(3)) for q in questions))
    alone = [mean(plain.vote(q, [node]) for q in questions) for node in range(5)]
    assert means["single agent, mean over all"] == pytest.approx(mean(alone))
    agents = record.metrics["agents"]
    assert agents["meaning well"].mean == pytest.approx(mean(alone[:3]))
    assert agents["misleading"].mean == pytest.approx(mean(alone[3:]))
    assert [agents[kind].n for kind in agents] == [len(questions)] * 2  # questions, not votes
    assert record.metrics["expected_edges"] == pytest.approx(sum(probs), rel=1e-5)
    assert record.metrics["truthful_ratio"] == pytest.approx(mean(probs[:3]) / mean(probs[3:]), rel=1e-5)
    sampled = evaluate(loaded, graph, questions, runner=Runner(graph, config.seed), seed=config.stream("evaluation"))
    assert means["learned, sampled"] == pytest.approx(sampled.accuracy.mean)
    for name, wiring in wirings.items():
        accuracy = wiring["accuracy"]
        assert accuracy.ci_low <= accuracy.mean <= accuracy.ci_high, name
        assert accuracy.n == len(questions), name
    for name, effect in record.metrics["differences"].items():
        one, other = name.split(" - ")
        assert effect.mean == pytest.approx(means[one] - means[other], abs=1e-7), name
    assert record.questions["training"] == QuestionSet(**questions_digest(train_questions), refused=0)
    assert record.questions["evaluation"] == QuestionSet(**questions_digest(questions))


def test_a_record_says_what_was_run(finished):
    config, folder, record = finished
    assert folder == run_folder(config)
    assert record.parameters == config.to_dict()
    assert record.command == "make this"
    assert [used.name for used in record.inputs] == ["sample", "fake"]
    assert [row["iteration"] for row in record.history] == list(range(20))
    assert record.code.model_dump() == code_version()
    num_questions = record.questions["training"].n + record.questions["evaluation"].n
    (usage,) = record.usage.values()  # all agents ask the same in mode "options"
    assert usage["distinct_calls"] == num_questions
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (11 * num_questions, 7 * num_questions)
    assert record.timing["model_calls"] == num_questions
    json.loads((folder / "record.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_saved_policy_is_the_trained_one(asked_for, tmp_path, monkeypatch):
    trained = []

    def remember(*arguments, **options):
        policies, history = train_all(*arguments, **options)
        trained.append(policies)
        return policies, history

    monkeypatch.setattr(run_module, "train_all", remember)
    folder = run_experiment(run_config(output_dir=str(tmp_path)), "make this")
    loaded = StaticEdgePolicy.from_pretrained(folder / "policy")
    questions = [question(0), question(1)]
    logits = trained[0]["learned"].edge_logits_of(questions)
    assert torch.equal(loaded.edge_logits_of(questions), logits)
    assert logits.abs().max() > 0.1  # it has learned something


# --- the command line


def test_a_bad_file_is_one_sentence(tmp_path, capsys):
    cases = {"bad.json": '{"dataset": ', "list.json": "[1]", "name.json": '{"datset": "mmlu"}', "missing.json": None}
    for name, text in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        assert main(["train", str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("dynagent: ")
        assert err.endswith(".\n")
        assert err.count("\n") == 1
    assert "datset" not in "".join(path.name for path in tmp_path.iterdir())  # nothing was saved


@pytest.mark.usefixtures("asked_for")
def test_a_good_file_ends_with_the_summary(tmp_path, capsys):
    path = tmp_path / "my run.json"
    config = run_config(num_iterations=3, eval_limit=12, output_dir=str(tmp_path / "runs"))
    path.write_text(json.dumps(config.to_dict()))
    assert main(["train", str(path)]) == 0
    folder = run_folder(config)
    record = RunRecord.load(folder / "record.json")
    assert shlex.split(record.command) == ["python", "-m", "dynagent", "train", str(path)]
    lines = capsys.readouterr().out.splitlines()
    assert f"record    {folder / 'record.json'}" in lines
    assert f"policy    {folder / 'policy'}" in lines
    assert "accuracy on 12 held-out questions (95 % interval):" in lines
    accuracy = record.metrics["wirings"]["full graph"]["accuracy"]
    assert any(line.split()[:3] == ["full", "graph", f"{accuracy.mean:.3f}"] for line in lines)


# --- what is trained beside what


def test_learned_beside_static_and_untrained(monkeypatch, tmp_path, root, asked_for):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    tiny = str(root / "models" / "tiny")
    config = run_config(edge_policy="dynamic", edge_llm=tiny, agent_llm=tiny, num_iterations=5, eval_limit=10)
    whole = prepare(config)
    policies, history = train_all(whole, Accelerator(cpu=True))
    assert list(policies) == ["learned", "static", "untrained"]
    assert [type(policy) for policy in policies.values()] == [EdgePolicy, StaticEdgePolicy, EdgePolicy]
    assert policies["learned"] is whole.policy
    assert len(history.rows) == 5
    logits = {name: policy.edge_logits_of(whole.eval_questions) for name, policy in policies.items()}
    start = torch.full((10, whole.graph.num_edges), logit(initial_probability(whole.graph)))
    assert torch.equal(logits["untrained"], start)
    assert logits["static"].std(0).max() == 0
    assert (logits["static"] - start).abs().max() > 0
    assert logits["learned"].std(0).max() > 0  # it depends on the question
    distinct = len(whole.train_questions) + len(whole.eval_questions)
    assert whole.reader.forwards == distinct  # one reader for both policies, and every question once


def test_untrained_is_untrained_also_with_a_random_head(monkeypatch, tmp_path, root, asked_for):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    tiny = str(root / "models" / "tiny")
    config = run_config(
        edge_policy="dynamic", edge_llm=tiny, agent_llm=tiny, num_iterations=2, head_init="default", eval_limit=5
    )
    whole = prepare(config)
    before = {name: value.clone() for name, value in whole.policy.head.state_dict().items()}
    policies, _ = train_all(whole, Accelerator(cpu=True))
    untrained, learned = (policies[name].head.state_dict() for name in ("untrained", "learned"))
    assert all(torch.equal(untrained[name], before[name]) for name in before)
    assert all(not torch.equal(learned[name], before[name]) for name in before)


def test_a_static_run_has_no_second_static_policy(asked_for):
    config = run_config(num_iterations=2)
    graph = build_graph(config)
    train_questions, eval_questions = load_split_questions(config)
    policy = build_policy(config, graph)
    whole = Experiment(config, train_questions, eval_questions, graph, policy, Runner(graph, config.seed))
    policies, _ = train_all(whole, Accelerator(cpu=True))
    assert list(policies) == ["learned", "untrained"]
    start = torch.full((graph.num_edges,), logit(initial_probability(graph)))
    assert torch.equal(policies["untrained"].edge_logits, start)
    assert (policies["learned"].edge_logits - start).abs().max() > 0


AFTER_BF16 = """
import sys, tempfile
import torch
from accelerate import Accelerator
from tests.support.toy import ToyPolicy, toy_graph, toy_questions
from dynagent.learning.config import TrainConfig
from dynagent.policies.static import StaticEdgePolicy
from dynagent.learning.loop import train

torch.set_num_threads(1)
graph, questions = toy_graph(), toy_questions(20)
accelerator = Accelerator(cpu=True, mixed_precision="bf16")
assert accelerator.mixed_precision == "bf16"
for kind in (ToyPolicy, StaticEdgePolicy):
    policy = kind.for_graph(graph)
    seen = []
    if kind is ToyPolicy:
        hook = policy.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    train(policy, graph, questions, TrainConfig(num_iterations=10, mixed_precision="bf16"), accelerator=accelerator)
    if kind is ToyPolicy:
        hook.remove()
        assert seen == [torch.bfloat16] * 10, seen  # what is trained is not single precision
    logits = policy.edge_logits_of(questions)
    assert logits.dtype == torch.float32, logits.dtype
    assert logits.abs().max() > 0.1
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        loaded = kind.from_pretrained(folder)
    assert torch.equal(loaded.edge_logits_of(questions), logits), kind
    print(kind.__name__)
"""


def test_after_a_bf16_training_the_policy_computes_in_single_precision():
    """In a process of its own, since the precision of Accelerate is the process's."""
    done = subprocess.run([sys.executable, "-c", AFTER_BF16], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"ToyPolicy", "StaticEdgePolicy"} <= set(done.stdout.split())


BF16_BESIDE_FLOAT32 = """
import sys
import torch
from accelerate import Accelerator
from dataclasses import replace
from tests.support.toy import ToyPolicy, expected_utility, save_tiny_backbone, toy_graph, toy_questions
from dynagent.learning.config import TrainConfig
from dynagent.llm.reading import QuestionReader
from dynagent.learning.loop import train
from dynagent.policies.tuned import TunedEdgePolicy

torch.set_num_threads(1)
graph = toy_graph()
questions = [replace(q, text=("what is {}?", "WHO WAS {}!")[q.kind].format(q.id)) for q in toy_questions(40)]
reader = QuestionReader.load(save_tiny_backbone(sys.argv[2]), dtype="float32")
accelerator = Accelerator(cpu=True, mixed_precision=sys.argv[1])
policies = {"head": ToyPolicy.for_graph(graph), "lora": TunedEdgePolicy.from_backbone(reader, graph)}
results = {}
for name, policy in policies.items():
    options = {"num_iterations": 150, "batch_size": 8, "learning_rate": 0.1, "mixed_precision": sys.argv[1]}
    if name == "lora":
        options |= {"num_iterations": 40, "backbone_learning_rate": 0.01, "gradient_accumulation_steps": 2}
    history = train(policy, graph, questions, TrainConfig(**options), accelerator=accelerator)
    probs = policy.edge_logits_of(questions).sigmoid()
    trained = {str(parameter.dtype) for parameter in policy.parameters() if parameter.requires_grad}
    utility = history.column("utility")
    results[name] = {
        "probs": probs, "dtypes": trained, "reached": expected_utility(probs, graph, questions),
        "first": sum(utility[:10]) / 10, "last": sum(utility[-10:]) / 10,
    }
torch.save(results, sys.argv[3])
"""


def test_bf16_learns_what_single_precision_does(tmp_path):
    """Probabilities end within .005 (.0002 were measured), and the utility that they reach within .002."""
    found = {}
    for precision in ("no", "bf16"):
        command = [sys.executable, "-c", BF16_BESIDE_FLOAT32, precision, tmp_path / "llm", tmp_path / precision]
        environment = os.environ | {"DYNAGENT_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        found[precision] = torch.load(tmp_path / precision)
    for name in ("head", "lora"):
        half, single = found["bf16"][name], found["no"][name]
        assert half["dtypes"] == single["dtypes"] == {"torch.float32"}, "what is trained is not rounded"
        assert half["last"] > half["first"] + 0.1
        assert half["reached"] == pytest.approx(single["reached"], abs=0.002)
        assert not torch.equal(half["probs"], single["probs"])
        torch.testing.assert_close(half["probs"], single["probs"], rtol=0, atol=0.005)
        assert half["reached"] > 0.95, "no static graph has more than .7"


def test_an_output_folder_that_cannot_be_is_found_before_anything_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(experiment, "load_questions", lambda *_: pytest.fail("questions were loaded"))
    config = RunConfig(dataset="sample", output_dir=str(tmp_path / "file" / "runs"))
    with pytest.raises(ValueError, match=r"choose an output_dir that can be written to\.$"):
        load_split_questions(config)


@pytest.mark.slow
def test_two_launched_processes_leave_the_policy_and_the_record_of_one(tmp_path):
    """The command of the README, where there is no GPU; each process would train alone if Accelerate were not told."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    parameters = {"data_source": "recordings", "agent_llm": "qwen2.5-coder-1.5b-instruct", "agent_mode": "letter"}
    policies = []
    for name, start in (("two", launch), ("one", [])):
        run = tmp_path / f"{name}.json"
        run.write_text(json.dumps(parameters | {"eval_limit": 50, "output_dir": str(tmp_path / name)}))
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *start, "-m", "dynagent", "train", str(run)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("accuracy on 50 held-out questions") == 1, "one process evaluates and reports"
        (record,) = (tmp_path / name).rglob("record.json")
        assert len(RunRecord.load(record).history) == 285 // 4
        policies.append(load_file(record.parent / "policy" / "model.safetensors"))
    for key, weights in policies[1].items():
        torch.testing.assert_close(policies[0][key], weights, rtol=1e-5, atol=2e-6)
    assert policies[0]["head.weight"].abs().max() > 0.1
