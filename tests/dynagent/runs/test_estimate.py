"""What a run costs: calls known from its plan, tokens and time from a pilot that is paid for only once."""

import json
import re
import runpy
import sys

import pytest
import torch

from dynagent.__main__ import main
from dynagent.evaluation.evaluate import compare_wirings
from dynagent.execution.runner import Runner, used_llms
from dynagent.llm.budget import BudgetExceededError
from dynagent.runs.build import again, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.preflight import Costs, estimate
from dynagent.runs.record import RunRecord, run_folder
from dynagent.runs.run import train_all
from tests.support.servers import chat_reply, imitation, models_reply
from tests.support.toy import save_tiny_backbone

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_backbone(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


def run_config(tiny, tmp_path, **changes) -> RunConfig:
    small = {
        "dataset": "sample", "eval_limit": 40, "train_limit": 30, "edge_policy": "static", "batch_size": 4,
        "num_truthful": 2, "num_adversarial": 2, "agent_llm": tiny, "output_dir": str(tmp_path / "runs"),
    }  # fmt: skip
    return RunConfig(**(small | changes))


def whole_run(experiment):
    policies, history = train_all(experiment)
    results = compare_wirings(policies, experiment.eval_questions, experiment.runner, experiment.config)
    return history.rows, {name: result.scores.tolist() for name, result in results.items()}


@pytest.mark.parametrize("changes", [{}, {"early_stopping": 0.2}, {"num_iterations": 3}], ids=["", "held out", "short"])
def test_the_plan_is_what_a_run_asks_and_the_pilot_is_paid_for_once(tiny, tmp_path, monkeypatch, changes):
    config = run_config(tiny, tmp_path, **changes)
    experiment = prepare(config)
    costs = estimate(experiment)
    (llm,) = used_llms(experiment.graph)
    assert llm.usage.calls == 0  # the pilot is none of the run's questions
    assert (costs.missing, costs.most_more) == (costs.calls, 0)
    pilot = llm.usage.model_calls
    assert 0 < pilot < costs.calls
    rows, scores = whole_run(experiment)
    usage = llm.usage_of_run()
    assert costs.calls == usage["distinct_calls"] == llm.usage.model_calls
    assert costs.tokens == pytest.approx(usage["prompt_tokens"] + usage["completion_tokens"], rel=0.25)

    second = estimate(again(experiment))
    assert second == (costs.calls, 0, 0, 0, 0, ())
    # A pilot changes no reply: its batches are those that the run would make.
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "another"))
    undisturbed = prepare(config)
    assert whole_run(undisturbed) == (rows, scores)
    assert used_llms(undisturbed.graph)[0].path.read_text() != ""
    lines = [{*used_llms(each.graph)[0].path.read_text().splitlines()} for each in (experiment, undisturbed)]
    assert lines[0] == lines[1]


def test_what_is_said_of_the_costs():
    costs = Costs(1284, 900, 123456.7, 754.0, 0)
    said = "1,284 different calls of the agents, 900 of them not on record: about 123,457 tokens and 12.6 minutes"
    assert str(costs) == said
    assert str(costs._replace(most_more=1234)) == f"{said}, and at most 1,234 calls of agents that have heard others"


@pytest.mark.parametrize("changes", [{}, {"edge_policy": "dynamic", "cost_weight": 0.1}], ids=["static", "dynamic"])
def test_agents_that_read_stay_below_the_bound_and_their_replies_are_what_they_were(
    tiny, tmp_path, monkeypatch, changes
):
    config = run_config(
        tiny, tmp_path, agent_mode="letter", adversary="asked", train_limit=4, eval_limit=3, num_iterations=2,
        estimator="leave_one_out", graphs_per_question=2, communicate=True, edge_llm=tiny, **changes,
    )  # fmt: skip
    experiment = prepare(config)
    (llm,) = used_llms(experiment.graph)
    costs = estimate(experiment)
    assert costs.calls == costs.missing == 2 * (4 + 3)  # of each kind of agent, that has heard nobody, on a question
    assert costs.tokens > 0
    assert not llm.path.exists()  # batches depend on what was said, and the pilot changes none
    asked = []
    run = Runner.run

    def counted(runner, questions, adjacency):
        asked.append(adjacency.shape[0] * adjacency.shape[1])
        return run(runner, questions, adjacency)

    monkeypatch.setattr(Runner, "run", counted)
    before = llm.usage.calls
    whole_run(experiment)
    # The bound counts every graph that a run executes, and in each every agent that reads.
    assert sum(asked) * 4 <= costs.most_more <= sum(asked) * 4 * 1.5
    assert llm.usage.calls - before <= costs.most_more + costs.calls


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # runpy's own, since the module is imported here
def test_the_program_says_it_before_it_asks(tiny, tmp_path, capsys, monkeypatch):
    config = run_config(tiny, tmp_path, train_limit=8, eval_limit=6)
    (tmp_path / "run.json").write_text(json.dumps(config.to_dict()))
    monkeypatch.setattr(sys, "argv", ["dynagent", "train", str(tmp_path / "run.json")])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("dynagent", run_name="__main__")
    first, *rest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"14 different calls of the agents, 14 of them not on record: about [\d,]+ tokens and [\d.]+ minutes", first
    )
    assert rest[0].startswith("record ")


# --- at a server


def served_config(server, tmp_path, **changes):
    served = {"agent_llm": server.name(), "agent_mode": "letter", "adversary": "asked", "concurrency": 4}
    return run_config("", tmp_path, **(served | changes))


def answering(text="B", top=None):
    def answer(path, body):
        return 200, models_reply("tiny") if "models" in path else chat_reply(text, 30, 2, top)

    return answer


def test_a_run_at_a_server_estimates_stops_at_its_budget_and_goes_on(tmp_path, capsys, monkeypatch):
    path, key = tmp_path / "run.json", "sk" + "-very-secret-1234567890"
    monkeypatch.setenv("DYNAGENT_API_KEY", key)
    with imitation(answering()) as server:

        def run(**changes):
            config = served_config(server, tmp_path, **changes)
            path.write_text(json.dumps(config.to_dict()))
            return main(["train", str(path)]), capsys.readouterr(), config

        # The pilot is a few calls, at 32 tokens each; each call may take less than 1,000.
        status, said, config = run(token_budget=2500)
        assert "different calls of the agents" in said.out  # before it stops
        first = len(server.completions())
        assert status == 2
        assert "2,500" in said.err
        assert 32 * first <= 2500 < 32 * first + 1000
        status, said, finished = run()
        assert status == 0
        assert run_folder(config) == run_folder(finished)  # a budget does not make another run
        record = RunRecord.load(run_folder(finished) / "record.json")
        (calls,) = [usage for name, usage in record.usage.items() if name.startswith("agents")]
        assert len(server.completions()) == calls["distinct_calls"]  # every call was paid for once
        assert calls["prompt_tokens"] == 30 * calls["distinct_calls"]
    assert {call["headers"]["authorization"] for call in server.calls} == {f"Bearer {key}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"record.json", "learned.safetensors"} <= {file.name for file in files}
    assert not [file for file in files if key.encode() in file.read_bytes()]
    assert key not in said.out + said.err
    assert [used.sha256 for used in record.inputs if used.kind == "served"] == ["not verifiable"]
    assert record.decoding == {"temperature": 0.0, "max_new_tokens": 50}
    assert calls["written"] == calls["distinct_calls"]  # their letters are parsed
    assert record.metrics["answers"]["timed out"] == 0
    assert record.parameters["agent_llm"] == config.agent_llm


def test_both_models_of_a_team_share_one_budget(tmp_path):
    with imitation(answering()) as server:
        config = served_config(
            server, tmp_path, team="two_models", second_agent_llm=server.name("other"), adversary="least_likely",
            token_budget=2100,
        )  # fmt: skip
        with pytest.raises(BudgetExceededError, match=r"token_budget 2,100"):
            train_all(prepare(config))
        assert 28 * 32 < 32 * len(server.completions()) <= 2100  # the first one alone pays for 28


def test_what_cannot_work_is_found_out_by_the_first_reply(tmp_path):
    with imitation(answering()) as server:
        experiment = prepare(served_config(server, tmp_path, adversary="least_likely"))
        with pytest.raises(ValueError, match="set adversary to 'asked'"):
            estimate(experiment)
        assert len(server.completions()) == 1


def test_scored_letters_of_a_server_are_not_called_parsed(tmp_path):
    with imitation(answering(top={"A": -1.0, "B": -1.5, "C": -2.0, "D": -2.5})) as server:
        config = served_config(server, tmp_path, adversary="least_likely")
        path = tmp_path / "run.json"
        path.write_text(json.dumps(config.to_dict()))
        assert main(["train", str(path)]) == 0
    record = RunRecord.load(run_folder(config) / "record.json")
    assert [usage["written"] for name, usage in record.usage.items() if name.startswith("agents")] == [0]
    assert torch.isfinite(torch.tensor([row["utility"] for row in record.history])).all()


def test_another_budget_or_concurrency_needs_other_parts(tiny, tmp_path):
    experiment = prepare(run_config(tiny, tmp_path))
    for change in ({"token_budget": 5}, {"concurrency": 2}):
        with pytest.raises(ValueError, match=r"needs other parts: load them with prepare"):
            again(experiment, **change)


@pytest.mark.parametrize("change", [{"token_budget": 0}, {"token_budget": "many"}, {"concurrency": 0}])
def test_budget_and_concurrency_are_whole_numbers(change):
    with pytest.raises(ValueError, match="has to be a whole number of 1 or more"):
        RunConfig(**change)
