"""The preset "paper" from its parameters to its record, on tiny models that behave like Gemma, Llama 3 and BlueLM."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from transformers import GenerationMixin

from dynagent.__main__ import main
from dynagent.artefacts.sources import Source
from dynagent.learning import batch, objectives
from dynagent.llm import loading
from dynagent.llm.base import Request
from dynagent.llm.local import TransformersModel
from dynagent.policies.edge import EdgePolicy
from dynagent.runs.build import again, build_graph, build_policy, load_split_questions, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.record import RunRecord, run_folder
from dynagent.tasks.multiple_choice import load_questions
from dynagent.team.agents import Constant, Truthful
from dynagent.team.prompts import TRUTHFUL_ROLE
from dynagent.viz.plots import plot_edge_probs
from tests.support.chat_models import CHAT_KINDS, save_chat_model, save_model_with_own_code

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True, scope="module")
def published_precision():
    """As on the GPU that the preset is for, whatever is faster on this processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynagent.llm.local.faster_precision", lambda device: "bfloat16")
        yield


KINDS = sorted(CHAT_KINDS)
NUM_TRAIN, NUM_EVAL, STEPS = 8, 4, 5
SAMPLE = [*load_questions("sample", "train"), *load_questions("sample", "test")]


def write_csv(path, questions, chinese=False):
    rows = [[question.text, *question.options, "ABCD"[question.answer]] for question in questions]
    if chinese:
        rows = [["", "Question", "A", "B", "C", "D", "Answer"], *([str(i), *row] for i, row in enumerate(rows))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def write_layouts(folder):
    """MMLU and CMMLU in their official layouts, made of the sample's questions."""
    english = [question for question in SAMPLE if question.language == "en"]
    by_answer = [[question for question in english if question.answer == answer] for answer in range(4)]
    write_csv(folder / "small" / "dev" / "biology_dev.csv", [q for alike in by_answer for q in alike[: NUM_TRAIN // 4]])
    write_csv(folder / "small" / "val" / "biology_val.csv", [alike[-1] for alike in by_answer])  # NUM_EVAL
    for question in SAMPLE:
        alike = [other for other in SAMPLE if (other.language, other.subject) == (question.language, question.subject)]
        others = [replace(other, text=f"Once more: {other.text}") for other in alike[:2]]
        for split, questions in (("test", alike), ("dev", others)):
            if question.language == "en":
                write_csv(folder / "mmlu" / split / f"{question.subject}_{split}.csv", questions)
            else:
                write_csv(folder / "cmmlu" / split / f"{question.subject}.csv", questions, chinese=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only get in each other's way on matrices of this size
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of every kind, the edge LLM, and the data; nothing is cached elsewhere."""
    folder = tmp_path_factory.mktemp("paper")
    for kind in KINDS:
        save_chat_model(folder / kind, kind)
    save_chat_model(folder / "edge", "gemma", seed=3, template=False)
    write_layouts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAGENT_CACHE", str(folder / "cache"))
        yield folder


def paper_parameters(place, kind, **changes):
    return {
        "preset": "paper",
        "edge_llm": str(place / "edge"),
        "agent_llm": str(place / kind),
        "data_source": str(place / "small"),
        "num_iterations": STEPS,
        "output_dir": str(place / "runs"),
    } | changes


def write_run(path, parameters):
    path.write_text(json.dumps(parameters))
    return str(path)


@pytest.fixture(scope="module", params=KINDS)
def paper_run(request, place):
    """A run of the preset, with everything that was asked of the language model and of the estimator."""
    kind = request.param
    seen = SimpleNamespace(kind=kind, this=CHAT_KINDS[kind], generated=[], drawn=[], losses=[])
    generate, sample_dags, policy_loss = GenerationMixin.generate, batch.sample_dags, objectives.policy_loss

    def spy_generate(model, **options):
        seen.generated.append(options)
        return generate(model, **options)

    def spy_sample(edge_logits, graph, noise, **options):
        dags = sample_dags(edge_logits, graph, noise, **options)
        seen.drawn.append((edge_logits, graph, noise, options, dags))
        return dags

    def spy_loss(log_prob, advantage):
        seen.losses.append((log_prob, advantage, policy_loss(log_prob, advantage)))
        return seen.losses[-1][2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerationMixin, "generate", spy_generate)
        patch.setattr(batch, "sample_dags", spy_sample)
        patch.setattr(objectives, "policy_loss", spy_loss)
        path = write_run(place / f"{kind}.json", paper_parameters(place, kind))
        assert main(["train", path]) == 0
    seen.config = RunConfig.from_json(path)
    seen.folder = run_folder(seen.config)
    seen.record = RunRecord.load(seen.folder / "record.json")
    seen.llm = TransformersModel.load(str(place / kind))
    seen.questions = [question for split in load_split_questions(seen.config) for question in split]
    return seen


def prompts_of(run):
    """Every prompt as the model got it, without the padding, which is all on the left."""
    for options in run.generated:
        for ids, mask in zip(options["input_ids"], options["attention_mask"], strict=True):
            length = int(mask.sum())
            assert mask.tolist() == [0] * (len(mask) - length) + [1] * length
            yield run.llm.tokenizer.decode(ids[-length:])


# --- prompts and replies


def test_a_prompt_states_role_and_question_once_in_the_models_own_form(paper_run):
    begin = paper_run.this.special[0]
    ends = {"gemma": "<start_of_turn>model\n", "llama3": "<|end_header_id|>\n\n", "bluelm": "[|AI|]:"}
    prompts = list(prompts_of(paper_run))
    assert len(prompts) == 8 * (NUM_TRAIN + NUM_EVAL)  # the released adversaries ask nobody
    for prompt in prompts:
        assert prompt.count(TRUTHFUL_ROLE) == 1
        assert sum(question.render() in prompt for question in paper_run.questions) == 1
        assert prompt.count(begin) == (paper_run.kind != "bluelm")
        assert prompt.endswith(ends[paper_run.kind])
        assert ("system" in prompt) == (paper_run.kind == "llama3")
    assert all(sum(question.render() in prompt for prompt in prompts) == 8 for question in paper_run.questions)


def test_replies_are_drawn_as_published(paper_run):
    for options in paper_run.generated:
        drawing = {name: options[name] for name in ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens")}
        assert drawing == {"do_sample": True, "temperature": 0.2, "top_k": 50, "top_p": 0.9, "max_new_tokens": 50}
        assert options["repetition_penalty"] == 1
        assert options["eos_token_id"] == paper_run.llm.tokenizer.convert_tokens_to_ids(list(paper_run.this.stop))
    assert paper_run.llm.model.dtype == torch.bfloat16


@torch.no_grad()
def greedy_ids(llm, prompt, stops, most=50):
    """The new tokens by one full forward each: no batch, no padding, no cache."""
    ids = list(llm._prompt_ids(prompt))
    new = []
    while len(new) < most and (not new or new[-1] not in stops):
        new.append(int(llm.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_replies_in_a_batch_are_those_alone_and_end_at_every_stop_token(place, kind):
    llm = TransformersModel.load(str(place / kind), dtype="float32", device="cpu")
    stops = llm.tokenizer.convert_tokens_to_ids(list(CHAT_KINDS[kind].stop))
    agent = Truthful(None, mode="text")
    requests = [Request(agent.request(question).prompt) for question in SAMPLE[:32]]
    replies = {}
    for group in (range(start, start + 8) for start in range(0, 32, 8)):
        replies |= dict(zip(group, llm.reply([requests[i] for i in group]), strict=True))
    alone = [greedy_ids(llm, request.prompt, stops) for request in requests]
    assert [replies[i].completion_tokens for i in range(32)] == list(map(len, alone))
    assert [replies[i].text for i in range(32)] == [
        llm.tokenizer.decode(new, skip_special_tokens=True) for new in alone
    ]
    assert {new[-1] for new in alone if len(new) < 50} == set(stops)
    assert len({reply.prompt_tokens for reply in replies.values()}) > 10  # so that there was padding


@pytest.mark.parametrize(("kind", "end"), [("gemma", "<end_of_turn>"), ("llama3", "<|eot_id|>"), ("bluelm", "</s>")])
def test_what_closes_a_turn_ends_a_reply_though_the_config_leaves_it_out(tmp_path, kind, end):
    """As the first generation configs of Gemma and Llama 3 did."""
    llm = TransformersModel.load(save_chat_model(tmp_path / "chat", kind, listed_stops=1))
    assert llm.model.generation_config.eos_token_id in (1, [1])
    assert llm.end_tokens == sorted({1, llm.tokenizer.convert_tokens_to_ids(end)})
    base = save_chat_model(tmp_path / "base", kind, listed_stops=1, template=False)
    assert TransformersModel.load(base).end_tokens == [1]


# --- edge LLM and estimator


@torch.no_grad()
def test_the_feature_is_the_raw_last_hidden_state_of_the_last_token(paper_run):
    policy = EdgePolicy.from_pretrained(paper_run.folder / "policy")
    edge = TransformersModel.load(str(paper_run.config.edge_llm))
    assert (policy.readout, policy.standardize) == ("last_hidden", False)
    assert torch.equal(policy.feature_mean, torch.zeros(32))
    assert torch.equal(policy.feature_scale, torch.ones(32))
    features = []
    for question in paper_run.questions:
        ids = edge.tokenizer(question.render(), return_tensors="pt").input_ids
        assert ids[0, 0] == edge.tokenizer.bos_token_id != ids[0, 1]
        features.append(edge.model(ids, output_hidden_states=True).hidden_states[-1][0, -1].float())
    naive = torch.stack(features)
    torch.testing.assert_close(policy.encode(paper_run.questions), naive, atol=0.05, rtol=0.05)  # bfloat16
    logits = naive @ policy.head.weight.T + policy.head.bias
    torch.testing.assert_close(policy.edge_logits_of(paper_run.questions), logits, atol=0.1, rtol=0.05)
    assert naive.norm(dim=1).min() > 2  # a standardised feature has norm 1


@torch.no_grad()
def test_the_head_starts_as_released_and_moves_as_adam_does(paper_run):
    trained = EdgePolicy.from_pretrained(paper_run.folder / "policy").head
    start = build_policy(paper_run.config, build_graph(paper_run.config)).head
    bound = 1 / math.sqrt(32)
    assert (start.weight.shape, start.bias.shape) == ((256, 32), (256,))
    assert 0.98 * bound < start.weight.abs().max() <= bound
    assert start.weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert start.bias.abs().max() <= bound
    moved = (trained.weight - start.weight).abs()
    assert 0 < moved.max() <= STEPS * 1e-4 * 1.01  # Adam's first steps are of about the learning rate


def test_the_estimator_is_reinforce_on_one_graph_of_a_question(paper_run):
    assert len(paper_run.drawn) == len(paper_run.losses) == 2 * STEPS  # the dynamic policy, then the static one
    for logits, graph, noise, options, dags in paper_run.drawn:
        assert (graph.num_edges, tuple(logits.shape)) == (256, (4, 256))
        assert noise.shape[:2] == (4, 1)
        assert options == {"order": "fixed", "decide": "all"}
        assert dags.adjacency.shape == (4, 1, 17, 17)
        agents_heard = dags.adjacency[..., :-1, :-1]
        assert agents_heard.any()  # edges between agents are decided, too, though nobody reads
    # Constant agents are right where A is, whatever the others write: there is something to learn from.
    assert {row["utility"] > 0 for row in paper_run.record.history} >= {True}
    for (log_prob, advantage, loss), row in zip(paper_run.losses, paper_run.record.history, strict=False):
        assert row["baseline"] == 0
        assert row["utility"] == pytest.approx(float(advantage.mean()), abs=1e-6)
        assert float(loss.detach()) == pytest.approx(-float((advantage * log_prob).detach().mean()), rel=1e-5)
        shares = {0, 1, 0.5, 1 / 3, 0.25}  # of a tie between one to four options
        assert all(min(abs(share - value) for share in shares) < 1e-6 for value in advantage.flatten().tolist())


# --- the record


def test_the_record_says_how_it_was_made(paper_run):
    record, place = paper_run.record, paper_run.folder.parent.parent
    published = {
        "preset": "paper", "num_truthful": 8, "num_adversarial": 8, "adversary": "constant", "agent_mode": "text",
        "temperature": 0.2, "graphs_per_question": 1, "batch_size": 4, "estimator": "reinforce", "order": "fixed",
        "decide": "all", "readout": "last_hidden", "standardize": False, "head_init": "default",
        "learning_rate": 1e-4, "optimizer": "adam", "sparsity": 0, "train_split": "dev", "eval_split": "val",
    }  # fmt: skip
    assert {name: record.parameters[name] for name in published} == published
    assert record.decoding == {"temperature": 0.2, "top_k": 50, "top_p": 0.9, "max_new_tokens": 50}
    assert record.command == f"python -m dynagent train {place / paper_run.kind}.json"
    assert {used.name for used in record.inputs} == {"mmlu", str(place / paper_run.kind), str(place / "edge")}
    assert all(used.kind == "folder" and len(used.sha256) == 64 for used in record.inputs)
    assert (record.questions["training"].n, record.questions["evaluation"].n) == (NUM_TRAIN, NUM_EVAL)
    assert len(record.history) == STEPS
    usage = record.usage[f"agents, {paper_run.llm.identity}"]
    assert paper_run.llm.identity.endswith("-bfloat16")
    lengths = [int(options["attention_mask"].sum()) for options in paper_run.generated]
    assert (usage["distinct_calls"], usage["prompt_tokens"]) == (8 * (NUM_TRAIN + NUM_EVAL), sum(lengths))
    assert usage["distinct_calls"] <= usage["completion_tokens"] <= 50 * usage["distinct_calls"]
    assert [usage for name, usage in record.usage.items() if name.startswith("edge LLM")] == [
        {"questions": NUM_TRAIN + NUM_EVAL}
    ]


def test_the_released_adversaries_always_answer_a(paper_run):
    team = build_graph(paper_run.config).team
    assert [type(agent) for agent in team] == [Truthful] * 8 + [Constant] * 8
    single = paper_run.record.metrics["agents"]["misleading"]
    assert single.mean == pytest.approx(sum(q.answer == 0 for q in paper_run.questions[-NUM_EVAL:]) / NUM_EVAL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_makes_the_same_record(place, kind, tmp_path):
    """In a process of its own, with nothing on record; a whole run twice gives the same bits."""
    records = []
    for name in ("one", "two"):
        parameters = paper_parameters(place, kind, output_dir=str(tmp_path / name))
        path = write_run(tmp_path / f"{name}.json", parameters)
        done = subprocess.run(
            [sys.executable, "-m", "dynagent", "train", path],
            env=os.environ | {"DYNAGENT_CACHE": str(tmp_path / f"cache-{name}"), "OMP_NUM_THREADS": "1"},
            cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert "learned, sampled" in done.stdout
        records.append(RunRecord.load(run_folder(RunConfig.from_json(path)) / "record.json"))
    assert records[0].timing["model_calls"] == 8 * (NUM_TRAIN + NUM_EVAL)
    assert records[0].history == records[1].history
    assert records[0].metrics == records[1].metrics


# --- two language models


def params(name):
    return yaml.safe_load((ROOT / "notebooks" / "params" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "sparsity"), [("paper_specialized", 0), ("paper_edge_reduction", 0.05)])
def test_the_published_settings_of_two_models(name, sparsity):
    config = RunConfig.from_parameters(params(name))
    assert (config.preset, config.dataset, config.team, config.num_per_domain) == ("paper", "mixed", "two_models", 4)
    assert config.agent_llms == ["google/gemma-7b-it", "vivo-ai/BlueLM-7B-Chat"]
    assert (config.data_source, config.cmmlu_source) == ("hub", "hub")
    assert (config.train_split, config.eval_split, config.eval_limit) == ("dev", "test", 1000)
    assert (config.num_iterations, config.batch_size, config.sparsity) == (200, 4, sparsity)
    assert not config.trust_remote_code  # only who has read a model's code can say so


@pytest.fixture(scope="module")
def specialized(place):
    """The setting of two models, with the tiny ones."""
    changes = {"second_agent_llm": str(place / "bluelm"), "cmmlu_source": str(place / "cmmlu"), "eval_limit": 6}
    changes |= {"train_limit": 8, "num_iterations": 3, "data_source": str(place / "mmlu")}
    return paper_parameters(place, "gemma", **(params("paper_edge_reduction") | changes))


def test_four_agents_on_each_of_two_models(place, specialized):
    experiment = prepare(RunConfig.from_parameters(specialized))
    graph = experiment.graph
    assert [type(agent) for agent in graph.team] == [Truthful] * 8
    assert [Path(agent.llm.model.source.name).name for agent in graph.team] == ["gemma"] * 4 + ["bluelm"] * 4
    assert len({id(agent.llm) for agent in graph.team}) == 2
    assert (graph.groups, graph.num_edges) == (["gemma", "bluelm"], 64)
    assert [node.name for node in graph.nodes[3:5]] == ["Truthful(gemma)", "Truthful(bluelm)"]
    languages = [question.language for question in experiment.train_questions]
    assert languages == ["en", "zh"] * 4
    other = again(experiment, seed=1)
    assert [agent.llm for agent in other.graph.team] == [agent.llm for agent in graph.team]
    assert other.reader is experiment.reader
    with pytest.raises(ValueError, match="second_agent_llm"):
        again(experiment, second_agent_llm=str(place / "llama3"))


def test_models_of_one_name_are_groups_of_their_own(place, specialized):
    second = save_chat_model(place / "elsewhere" / "gemma", "gemma", seed=5)
    config = RunConfig.from_parameters(specialized | {"second_agent_llm": second})
    assert build_graph(config).groups == [str(place / "gemma"), second]


@pytest.mark.parametrize("position", [0, 1])
def test_an_edge_llm_that_also_answers_is_loaded_once(specialized, position):
    names = [specialized["agent_llm"], specialized["second_agent_llm"]]
    config = RunConfig.from_parameters(specialized | {"edge_llm": names[position]})
    graph = build_graph(config)
    policy = build_policy(config, graph)
    assert policy.reader.model is graph.team[4 * position].llm.model
    assert policy.reader.name == names[position]


def test_a_run_of_two_models(place, specialized):
    path = write_run(place / "specialized.json", specialized)
    assert main(["train", path]) == 0
    config = RunConfig.from_json(path)
    record = RunRecord.load(run_folder(config) / "record.json")
    assert record.parameters["sparsity"] == 0.05
    asked = {name: usage["distinct_calls"] for name, usage in record.usage.items() if name.startswith("agents, ")}
    assert list(asked.values()) == [4 * (8 + 6)] * 2
    assert {Path(used.name).name for used in record.inputs} == {"mmlu", "cmmlu", "gemma", "bluelm", "edge"}
    wirings = record.metrics["wirings"]
    assert wirings["truthful agents only (told, not learned)"] == wirings["full graph"]  # all mean well
    assert record.metrics["truthful_ratio"] is None
    assert set(record.metrics["agents"]) == {"meaning well"}


def test_a_heatmap_frames_the_two_models(specialized):
    graph = build_graph(RunConfig.from_parameters(specialized))
    figure = plot_edge_probs(torch.full((64,), 0.5), graph)
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [(frame.get_x(), frame.get_y(), frame.get_height()) for frame in frames] == [(0, 1, 4), (0, 5, 4)]
    assert len({frame.get_edgecolor() for frame in frames}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["gemma", "bluelm"]
    plt.close(figure)


# --- a model's own code


def test_a_models_own_code_is_refused_in_one_sentence(place, specialized, capsys):
    own = save_model_with_own_code(place / "own")
    path = write_run(place / "own.json", specialized | {"second_agent_llm": own})
    assert main(["train", path]) == 2
    error = capsys.readouterr().err
    sentence = f"dynagent: {own} comes with code of its own, which is not run unasked: read it, then set "
    assert error.splitlines()[-1].startswith(sentence + "trust_remote_code to true")
    assert not run_folder(RunConfig.from_json(path)).exists()


def test_trusted_code_is_run_and_is_part_of_the_models_identity(place, specialized, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = save_model_with_own_code(tmp_path / "own")
    config = RunConfig.from_parameters(specialized | {"second_agent_llm": own, "trust_remote_code": True})
    one = build_graph(config).team[-1].llm.model
    assert type(one.model).__name__ == "OwnForCausalLM"
    (reply,) = one.reply([Request((("user", "A question"),))])
    assert 1 <= reply.completion_tokens <= 50
    code = tmp_path / "own" / "modeling_own.py"
    code.write_text(code.read_text() + "# changed\n")
    assert TransformersModel.load(own, trust_remote_code=True).identity != one.identity
    plain = TransformersModel.load(str(place / "gemma"), trust_remote_code=True)
    assert plain.identity == TransformersModel.load(str(place / "gemma")).identity  # no code, nothing changes


def test_trusted_code_of_the_hub_is_fetched_from_the_same_commit(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "hub_snapshot", lambda *arguments: asked.append(arguments))
    (tmp_path / "modeling_own.py").write_text("pass")
    source = Source("org/own", "hub", "org/own", "c0ffee", "0" * 64, "MIT")
    with_code = loading.with_code(str(tmp_path), source)
    (name, patterns, revision) = asked[0]
    assert (name, revision, "*.py" in patterns, "*.safetensors" in patterns) == ("org/own", "c0ffee", True, True)
    assert with_code == replace(source, sha256=with_code.sha256) != source
