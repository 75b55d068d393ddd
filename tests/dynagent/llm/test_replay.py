"""Replay: experiments on recorded answers and features, where neither the models nor the questions' texts are."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dynagent.__main__ import main
from dynagent.evaluation.evaluate import compare_wirings
from dynagent.llm.base import OriginRequest, Reply
from dynagent.llm.local import TransformersModel
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.llm.replay import RecordedAnswers, recorded_file
from dynagent.llm.store import Recorded
from dynagent.policies.agent_aware import AgentAwarePolicy
from dynagent.runs.build import again, build_graph, load_split_questions, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import project_root
from dynagent.runs.record import RunRecord, run_folder
from dynagent.runs.run import run_experiment, train_all
from dynagent.tasks.multiple_choice import load_questions
from dynagent.tasks.recorded import RecordedQuestion, load_recorded, shown
from dynagent.team.agents import Adversarial, Specialist, Truthful
from studies.recordings import record
from tests.support.toy import save_tiny_backbone

RECORDINGS = project_root() / "results" / "recordings"
QWEN = {"agent_llm": "qwen2.5-coder-1.5b-instruct", "agent_mode": "letter"}


def known(question) -> RecordedQuestion:
    """What a record knows of a question."""
    return RecordedQuestion(question.answer, question.subject, question.language, id=question.id)


# --- a small world, recorded: questions in two languages, and a tiny model as both LLMs


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folders of data, of a tiny model, and of what `make record` makes of them."""
    root = tmp_path_factory.mktemp("small")
    for split, num_rows in (("dev", 9), ("test", 24)):
        (root / "cmmlu" / split).mkdir(parents=True)
        rows = "".join(f"{i},{split} 问题 {i},甲{i},乙,丙,丁,{'ABCD'[i % 4]}\n" for i in range(num_rows))
        text = ",Question,A,B,C,D,Answer\n" + rows
        (root / "cmmlu" / split / "chinese_history.csv").write_text(text, encoding="utf-8")
    (root / "mmlu" / "test").mkdir(parents=True)
    for subject in ("virology", "anatomy"):
        rows = "".join(f"{subject} question {i},one,two {i},three,four,{'ABCD'[i % 4]}\n" for i in range(20))
        (root / "mmlu" / "test" / f"{subject}_test.csv").write_text(rows)
    tiny = save_tiny_backbone(root / "tiny")
    folders = SimpleNamespace(
        mmlu=str(root / "mmlu"), cmmlu=str(root / "cmmlu"), tiny=tiny, recordings=root / "records"
    )
    load = TransformersModel.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAGENT_CACHE", str(root / "cache"))
        patch.setattr(TransformersModel, "load", lambda name, **_: load(name, dtype="float32"))
        patch.setattr(
            record,
            "load_questions",
            lambda name, split, source=folders.mmlu, limit=None: load_questions(name, split, source, limit),
        )
        for mode in ("letter", "options"):
            arguments = ["--agent-llm", tiny, "--agent-mode", mode, "--edge-llm", tiny, "--cmmlu", folders.cmmlu]
            assert record.main([*arguments, "--output", str(folders.recordings)]) == 0
    return folders


@pytest.fixture
def live_model(monkeypatch, tmp_path):
    """A cache of its own, and single precision, whose rounding no draw of an agent can see."""
    load = TransformersModel.load
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TransformersModel, "load", lambda name, **_: load(name, dtype="float32"))


def both_configs(small, tmp_path, **changes) -> tuple[RunConfig, RunConfig]:
    """The same run on the live model, and on its record."""
    shared = {"agent_llm": small.tiny, "edge_llm": small.tiny, "num_iterations": 12, "initial_probability": 0.5}
    shared |= {"dataset": "mixed", "eval_limit": 30, "output_dir": str(tmp_path / "runs")} | changes
    live = RunConfig(data_source=small.mmlu, cmmlu_source=small.cmmlu, **shared)
    return live, RunConfig(data_source="recordings", recordings=str(small.recordings), **shared)


TEAMS = [
    {"agent_mode": "letter", "team": "languages", "adversary": "asked"},
    {"agent_mode": "letter", "team": "specialists", "adversary": "least_likely"},
    {"agent_mode": "options", "team": "adversarial", "adversary": "colluding"},
    {"agent_mode": "options", "dataset": "cmmlu", "adversary": "least_likely", "train_split": "dev"},
    {"agent_mode": "letter", "dataset": "mmlu", "adversary": "constant"},
]


@pytest.mark.usefixtures("live_model")
@pytest.mark.parametrize("changes", TEAMS, ids=lambda team: "-".join(team.values()))
def test_a_replay_gives_the_numbers_of_the_live_run(small, tmp_path, changes):
    live, replay = both_configs(small, tmp_path, edge_policy="static", **changes)
    if live.dataset == "cmmlu":
        live = live.replace(data_source=small.cmmlu)
    records = [RunRecord.load(run_experiment(config, "make this") / "record.json") for config in (live, replay)]
    for part in ("questions", "metrics", "usage", "history"):
        assert getattr(records[0], part) == getattr(records[1], part), part
    assert records[0].timing["model_calls"] > 0
    assert records[1].timing["model_calls"] == 0
    assert {used.kind for used in records[1].inputs} == {"record"}
    assert records[0].history[0]["utility"] != records[0].history[-1]["utility"]


@pytest.mark.usefixtures("live_model")
def test_a_dynamic_policy_learns_the_same_from_recorded_features(small, tmp_path):
    live, replay = (prepare(config) for config in both_configs(small, tmp_path, **TEAMS[0]))
    assert isinstance(live.reader, QuestionReader)
    assert isinstance(replay.reader, RecordedReader)
    features = [whole.reader.read(whole.train_questions) for whole in (live, replay)]
    assert torch.equal(features[0].half().float(), features[1])  # recorded in half precision
    probs = [train_all(whole)[0]["learned"].edge_logits_of(whole.eval_questions).sigmoid() for whole in (live, replay)]
    torch.testing.assert_close(*probs, rtol=0, atol=0.02)
    assert (probs[0] - 0.5).abs().max() > 0.1  # it has learned something


@pytest.mark.usefixtures("live_model")
@pytest.mark.parametrize("mode", ["letter", "options"])
def test_replayed_answers_are_the_recorded_ones(small, mode):
    replayed = RecordedAnswers(recorded_file(small.recordings, "agent", small.tiny))
    live = Recorded(TransformersModel.load(small.tiny), replayed.path)
    agents = [Truthful(None, mode=mode), Adversarial(None, mode=mode)]
    agents += [Adversarial(None, mode=mode, lying="asked")] if mode == "letter" else []
    for questions in (load_questions("mmlu", "test", small.mmlu), load_questions("cmmlu", "dev", small.cmmlu)):
        for agent in agents:
            expected = live.reply([agent.request(question) for question in questions])
            assert replayed.reply([agent.request(known(question)) for question in questions]) == expected
            assert replayed.reply([agent.request(question) for question in questions]) == expected
    assert live.usage.model_calls == 0
    assert (replayed.usage.calls, replayed.usage.distinct_calls) == (2 * live.usage.calls, live.usage.distinct_calls)
    assert replayed.usage_of_run() | {"calls": 0} == live.usage_of_run() | {"calls": 0}


def test_no_file_of_a_record_holds_a_question(small):
    texts = [file.read_bytes() for file in small.recordings.iterdir()]
    assert len([text for text in texts if text]) == 4  # index, answers, features, packages
    for words in ("virology question", "dev 问题", "two 3", "甲"):
        assert not any(words.encode() in text or json.dumps(words)[1:-1].encode() in text for text in texts)


# --- the committed recordings


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """An empty home, no network and no language model."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("DYNAGENT_CACHE", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*_):
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(TransformersModel, "load", lambda *_, **__: pytest.fail("a language model was loaded"))
    return home


def test_a_run_from_recordings_needs_neither_home_nor_network_nor_model(nowhere, tmp_path, capsys):
    parameters = QWEN | {"data_source": "recordings", "dataset": "mixed", "team": "languages", "num_per_domain": 4}
    parameters |= {"adversary": "asked", "train_limit": 40, "eval_limit": 60, "output_dir": str(tmp_path / "runs")}
    (tmp_path / "run.json").write_text(json.dumps(parameters))
    assert main(["train", str(tmp_path / "run.json")]) == 0
    assert "accuracy on 60 held-out questions" in capsys.readouterr().out
    saved = RunRecord.load(run_folder(RunConfig.from_parameters(parameters)) / "record.json")
    assert [used.kind for used in saved.inputs] == ["record"] * 6
    assert all(used.location.startswith("results/recordings/") for used in saved.inputs)
    assert saved.timing["model_calls"] == saved.timing["edge_llm_forwards"] == 0
    (usage,) = (use for name, use in saved.usage.items() if name.startswith("agents"))
    assert usage["distinct_calls"] == 2 * (40 + 60)  # asked for the right option, and for a wrong one
    assert 0.2 < saved.metrics["wirings"]["truthful agents only (told, not learned)"]["accuracy"].mean < 0.8
    assert list(nowhere.rglob("*")) == []


@pytest.mark.usefixtures("nowhere")
def test_every_data_set_has_its_splits_by_default():
    sizes = {}
    for dataset in ("mmlu", "cmmlu", "mixed"):
        train, held_out = load_split_questions(RunConfig(data_source="recordings", dataset=dataset))
        sizes[dataset] = (len(train), len(held_out))
        assert not {q.id for q in train} & {q.id for q in held_out}
        assert {q.language for q in (*train, *held_out)} == {"mmlu": {"en"}, "cmmlu": {"zh"}}.get(dataset, {"en", "zh"})
    assert sizes == {"mmlu": (285, 1000), "cmmlu": (285, 500), "mixed": (570, 1000)}


@pytest.mark.usefixtures("nowhere")
def test_the_mixed_data_set_is_half_and_half():
    base = RunConfig(data_source="recordings", dataset="mixed")
    for limit, sizes in ((1, (1, 0)), (2, (1, 1)), (7, (4, 3)), ("all", (500, 500))):
        questions = load_split_questions(base.replace(eval_limit=limit))[1]
        assert [q.language for q in questions] == ["en", "zh"] * sizes[1] + ["en"] * (sizes[0] - sizes[1])
        halves = {"en": load_recorded(RECORDINGS, "mmlu", "test"), "zh": load_recorded(RECORDINGS, "cmmlu", "test")}
        for language, half in halves.items():
            found = [q.id for q in questions if q.language == language]
            assert found == [q.id for q in half[: len(found)]]


@pytest.mark.usefixtures("live_model")
def test_the_mixed_data_set_is_the_same_from_folders(small, tmp_path):
    live, replay = both_configs(small, tmp_path)
    for one, other in zip(load_split_questions(live), load_split_questions(replay), strict=True):
        assert [q.id for q in one] == [q.id for q in other]
        assert [q.answer for q in one] == [q.answer for q in other]
        assert {q.language for q in one} == {"en", "zh"}


def test_another_seed_on_what_is_loaded_is_a_run_of_its_own(nowhere):
    config = RunConfig(data_source="recordings", **QWEN, train_limit=40, eval_limit=50, num_iterations=5)
    first = prepare(config)
    train_all(first)
    second, fresh = again(first, seed=3, num_adversarial=6), prepare(config.replace(seed=3, num_adversarial=6))
    assert second.config == fresh.config
    assert second.train_questions is first.train_questions
    assert second.reader is first.reader
    assert second.graph.team[0].llm is first.graph.team[0].llm
    results = []
    for whole in (second, fresh):
        policies, history = train_all(whole)
        results.append((history.rows, compare_wirings(policies, whole.eval_questions, whole.runner, whole.config)))
    assert results[0][0] == results[1][0]
    for name, evaluation in results[0][1].items():
        assert torch.equal(evaluation.scores, results[1][1][name].scores), name
    for change in ({"dataset": "cmmlu"}, {"eval_limit": 51}, {"agent_llm": "other"}, {"recordings": "elsewhere"}):
        with pytest.raises(ValueError, match=rf"^Another {next(iter(change))} needs other parts"):
            again(first, **change)


@pytest.mark.parametrize("team", ["adversarial", "specialists", "languages"])
@pytest.mark.usefixtures("nowhere")
def test_descriptions_of_every_team_are_on_record_for_an_agent_aware_head(team):
    config = RunConfig(data_source="recordings", team=team, head="agent_aware", train_limit=20, eval_limit=8, **QWEN)
    whole = prepare(config)
    assert type(whole.policy) is AgentAwarePolicy
    before = whole.policy.edge_logits_of(whole.eval_questions)
    policies, _ = train_all(whole)
    assert (policies["learned"].edge_logits_of(whole.eval_questions) - before).abs().max() > 0
    assert torch.equal(policies["untrained"].edge_logits_of(whole.eval_questions), before)


@pytest.mark.parametrize("agents", [QWEN, {"agent_llm": "smollm2-135m-instruct", "agent_mode": "options"}])
@pytest.mark.usefixtures("nowhere")
def test_colluders_agree_and_are_never_right(agents):
    config = RunConfig(data_source="recordings", adversary="colluding", train_limit=1, eval_limit=200, **agents)
    for whole in (prepare(config), prepare(config.replace(dataset="mixed", team="languages"))):
        questions = whole.eval_questions
        full = whole.graph.full().expand(len(questions), 1, -1, -1)
        whole.runner.prepare(questions)
        answers = whole.runner.run(questions, full).answers[:, 0]  # [n, N]
        for question, given in zip(questions, answers.tolist(), strict=True):
            team = whole.graph.team
            lies = {answer for agent, answer in zip(team, given, strict=True) if not agent.tells_truth(question)}
            assert len(lies) == 1
            assert question.answer not in lies
            truthful = next(agent for agent in team if agent.tells_truth(question))
            (reply,) = truthful.llm.reply([truthful.request(question)])
            probs = truthful.option_probs(question, reply)
            assert probs[lies.pop()] == min(p for option, p in enumerate(probs) if option != question.answer)
        assert len({tuple(given) for given in answers.tolist()}) > 10


def test_a_colluder_needs_likelihoods():
    with pytest.raises(ValueError, match=r"no likelihoods for colluders"):
        Specialist(None, domain="en", mode="text", lying="colluding")
    with pytest.raises(ValueError, match=r"'colluding' compares likelihoods"):
        RunConfig(adversary="colluding", agent_mode="text")


# --- what cannot be


class NeverAsked:
    """A language model that must not be reached."""

    identity = "never-0123456789ab-float32"

    def batches(self, requests):
        pytest.fail("the model was reached")


QUESTION = RecordedQuestion(2, "virology", "en", id="0123456789abcdef")


@pytest.mark.parametrize(
    "agent", [Truthful(None), Truthful(None, mode="letter"), Specialist(None, "text", domain="zh")]
)
def test_a_model_never_sees_a_placeholder_for_a_text(agent, small, tmp_path):
    request = agent.request(QUESTION)
    assert isinstance(request, OriginRequest)
    missing = r"^The text of question 0123456789abcdef is not on record, .*: load the data set itself"
    with pytest.raises(ValueError, match=missing):
        Recorded(NeverAsked(), tmp_path / "calls.jsonl").reply([request])
    assert not (tmp_path / "calls.jsonl").exists()
    model = TransformersModel.load(small.tiny)
    with pytest.raises(ValueError, match=missing):
        model.batches([request])
    with pytest.raises(ValueError, match=missing):
        model.reply([request])
    with pytest.raises(ValueError, match=missing):
        QuestionReader(model, tmp_path / "features.safetensors").read([QUESTION])


def test_a_person_is_told_what_is_known():
    assert shown(QUESTION) == "Question 0123456789abcdef on virology (en); its text is not on record."
    question = load_questions("sample", "test")[0]
    assert shown(question) == question.render()


NAME = "some-model-0123456789ab-float32"


@pytest.fixture
def answers(tmp_path) -> Path:
    """A record of two answers of `some-model`, as `Recorded` writes it."""

    class Model(NeverAsked):
        identity = NAME

        def batches(self, requests):
            return [list(range(len(requests)))]

        def reply(self, requests):
            return [Reply(None, (-1.0, -2.0, -3.0, -float(i)), (1, 1, 1, 1), 9, 4) for i in range(len(requests))]

    path = tmp_path / f"{NAME}.jsonl"
    questions = load_questions("sample", "test", limit=2)
    Recorded(Model(), path).reply([Truthful(None, mode="letter").request(question) for question in questions])
    assert len(path.read_text().splitlines()) == 2
    return path


def asked(limit, mode="letter"):
    return [Truthful(None, mode=mode).request(known(q)) for q in load_questions("sample", "test", limit=limit)]


def change_line(path, number, **changes):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_missing_answer_says_how_many_which_and_what_records_it(answers):
    llm = RecordedAnswers(answers)
    assert len(llm.reply(asked(2))) == 2
    third = load_questions("sample", "test")[2].id
    with pytest.raises(ValueError) as caught:
        llm.reply(asked(5) + asked(5))
    message = str(caught.value)
    assert message.startswith(f"3 answers are missing in {answers}, the first to question {third} (mode 'letter', ")
    assert '`make record ARGS="--cmmlu FOLDER --agent-llm some-model --agent-mode letter"` records them.' in message
    assert llm.usage.calls == 2  # what fails counts for nothing


def test_an_answer_to_another_version_of_the_prompt_is_no_answer(answers):
    first = json.loads(answers.read_text().splitlines()[0])
    origin = [*first["origin"][:2], "0ld0ld0l", *first["origin"][3:]]
    request = replace(asked(1)[0], origin=tuple(origin))
    change_line(answers, 0, origin=origin, origin_key=request.origin_key(NAME))
    llm = RecordedAnswers(answers)
    assert len(llm.reply([request])) == 1
    with pytest.raises(ValueError, match=rf"another version of the prompt \(0ld0ld0l, not {first['origin'][2]}\)"):
        llm.reply(asked(1))


def test_a_record_that_contradicts_itself_is_refused(answers):
    line = answers.read_text().splitlines(keepends=True)[0]
    with answers.open("a") as file:
        file.write(line)
    assert len(RecordedAnswers(answers).reply(asked(2))) == 2  # twice the same is no contradiction
    change_line(answers, 2, log_probs=[-9.0, -1.0, -1.0, -1.0])
    with pytest.raises(ValueError, match=r"has two different replies to letter, right, .*: take one out\.$"):
        RecordedAnswers(answers)


def test_a_record_of_another_model_is_refused(answers):
    other = answers.with_name("other-model-0123456789ab-float32.jsonl")
    shutil.copy(answers, other)
    with pytest.raises(ValueError, match=r"other-model.* holds answers of another model than its name says"):
        RecordedAnswers(other)


@pytest.mark.parametrize("bad", ["{", "3", "[]", '{"key": "a"', '{"key": "a", "score": 1}', '{"log_probs": [1]}'])
def test_a_malformed_line_is_named_and_a_torn_last_one_dropped(answers, bad):
    first, second = answers.read_text().splitlines(keepends=True)
    answers.write_text(first + second[: len(second) // 2])
    assert len(RecordedAnswers(answers).reply(asked(1))) == 1
    with pytest.raises(ValueError, match="1 answers are missing"):
        RecordedAnswers(answers).reply(asked(2))
    answers.write_text(f"{first}{bad}\n{second}")
    message = rf"{NAME}\.jsonl has a line that is no reply, at byte {len(first)}: take it out\.$"
    for read in (RecordedAnswers, lambda path: Recorded(SimpleNamespace(identity=NAME), path)):
        with pytest.raises(ValueError, match=message):
            read(answers)


def test_which_file_is_a_models(answers, tmp_path):
    assert recorded_file(tmp_path, "agent", "Some Model") == recorded_file(tmp_path, "agent", "some-model") == answers
    (tmp_path / "index.jsonl").touch()
    with pytest.raises(
        ValueError, match=r"no record of the agent LLM other \(it has: some-model\): .*--agent-llm other"
    ):
        recorded_file(tmp_path, "agent", "other")
    with pytest.raises(ValueError, match=r"no record of the edge LLM other \(it has: none\): .*--edge-llm other"):
        recorded_file(tmp_path, "edge", "other")
    shutil.copy(answers, tmp_path / "some-model-0123456789ab-bfloat16.jsonl")
    with pytest.raises(ValueError, match=r"are both some-model: keep one of them"):
        recorded_file(tmp_path, "agent", "some-model")
    alias = "smollm2-135m-instruct"
    (tmp_path / f"{alias}-000000000000-bfloat16.jsonl").touch()  # the alias means another file
    with pytest.raises(ValueError, match=f"no record of the agent LLM {alias}"):
        recorded_file(tmp_path, "agent", alias)
    with pytest.raises(ValueError, match=r"^There are no recorded answers .*: `make record` makes them\.$"):
        RecordedAnswers(tmp_path / "none-0-bfloat16.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent_mode": "text"}, "^agent_mode 'text' is not on record"),
        ({"dataset": "sample"}, "^dataset 'sample' is not on record"),
        ({"tune": "lora"}, "^tune 'lora' is not on record"),
        ({"train_split": "val"}, "has no questions of mmlu val"),
        ({"recordings": "no/such/folder"}, "There is no record of questions .*no/such/folder"),
        ({"agent_llm": "org/other"}, "no record of the agent LLM org/other"),
        ({"edge_llm": "org/other"}, "no record of the edge LLM org/other"),
    ],
)
@pytest.mark.usefixtures("nowhere")
def test_what_a_replay_cannot_do_is_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        prepare(RunConfig(**({"data_source": "recordings"} | changes)))
    assert str(caught.value).endswith(".")


@pytest.mark.usefixtures("nowhere")
def test_a_lying_team_is_built_as_configured():
    for adversary in ("least_likely", "asked", "colluding"):
        config = RunConfig(data_source="recordings", adversary=adversary, **QWEN)
        team = build_graph(config).team
        assert {agent.lying for agent in team} == {adversary}
        assert len({id(agent.llm) for agent in team}) == 1
        assert isinstance(team[0].llm, RecordedAnswers)
