"""The parts of a run, each timed by pytest-benchmark: `make bench-parts`.

`make test` runs every part once, untimed: no test fails by time, but each checks what its part gives.
"""

from pathlib import Path

import pytest
import torch

from dynagent.evaluation.evaluate import evaluate
from dynagent.execution.waves import ancestors
from dynagent.graph import AgentGraph
from dynagent.llm.reading import RecordedReader
from dynagent.llm.replay import RecordedAnswers, recorded_file
from dynagent.runs.paths import project_root
from dynagent.sampling import Dags, edge_noise, most_probable_dags, sample_dags
from dynagent.tasks.multiple_choice import load_questions
from dynagent.tasks.recorded import load_recorded
from dynagent.team.agents import Truthful
from dynagent.team.votes import MajorityVote
from studies.benchmarks.cases import Case, InstantModel

RECORDINGS = project_root() / "results" / "recordings"
SMOLLM2 = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """8 + 8 simulated agents on 32 questions, everything cached."""
    questions = load_questions("sample", "test", limit=32)
    return Case(InstantModel(), questions, 16, tmp_path_factory.mktemp("case")).prepare()


def graph_of(num_agents: int) -> AgentGraph:
    return AgentGraph([Truthful(None)] * num_agents, MajorityVote())


def random_logits(num_questions: int, graph: AgentGraph) -> torch.Tensor:
    return torch.randn(num_questions, graph.num_edges, generator=torch.Generator().manual_seed(0))


def assert_acyclic(dags: Dags, graph: AgentGraph) -> None:
    """Nobody is an ancestor of one of its own listeners: powers of the adjacency vanish."""
    walks = dags.adjacency.float()
    for _ in range(graph.num_nodes.bit_length()):
        walks = ((walks @ walks) > 0).float()
    assert not walks.any()


@pytest.mark.parametrize("num_agents", [8, 32])
@pytest.mark.parametrize("decide", ["effective", "all"])
def test_drawing_graphs(benchmark, num_agents, decide):
    graph = graph_of(num_agents)
    logits, noise = random_logits(4, graph), edge_noise(4, 16, graph.num_edges, torch.Generator().manual_seed(1))
    dags = benchmark(sample_dags, logits, graph, noise, decide=decide)
    assert dags.considered.any(-1).all()
    assert_acyclic(dags, graph)


def test_drawing_graphs_whose_cliques_are_dense(benchmark):
    graph = graph_of(44)
    first = graph.potential_edges < 22
    logits = torch.where(first[:, 0] == first[:, 1], 20.0, -20.0)[None]
    noise = edge_noise(1, 8, graph.num_edges, torch.Generator().manual_seed(1))
    dags = benchmark(sample_dags, logits, graph, noise, order="fixed", decide="all")
    assert_acyclic(dags, graph)
    agents = dags.adjacency[..., :-1, :-1]
    assert (agents.sum((-1, -2)) == 2 * 22 * 21 / 2).all(), "every pair within a clique, one way"


def test_the_most_probable_graphs(benchmark):
    graph = graph_of(16)
    dags = benchmark(most_probable_dags, random_logits(256, graph), graph, decide="all")
    assert_acyclic(dags, graph)


def test_the_gradient_of_the_vote_s_exact_expectation(benchmark):
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(0, 4, (4, 16), generator=generator)
    probs = torch.rand(4, 16, generator=generator, dtype=torch.float64).requires_grad_()

    def gradient() -> torch.Tensor:
        expected = MajorityVote().expected_option_probs(probs, answers, 4)
        return torch.autograd.grad(expected[:, 0].sum(), probs)[0]

    assert (benchmark(gradient)[answers == 0] > 0).all(), "one more vote for an option makes it likelier"


@pytest.mark.parametrize("estimator", ["exact", "local_expectation", "leave_one_out"])
def test_ten_steps_of_training(benchmark, case, estimator):
    policy = benchmark(case.train, 10, estimator=estimator)
    assert policy.head.weight.abs().sum() > 0, "it has learned something"


def test_evaluation(benchmark, case):
    policy = case.train(1)
    found = benchmark(evaluate, policy, case.graph, case.questions, runner=case.runner)
    assert found.scores.shape == (32,)


def test_ancestors(benchmark):
    graph = graph_of(16)
    noise = edge_noise(4, 16, graph.num_edges, torch.Generator().manual_seed(1))
    adjacency = sample_dags(random_logits(4, graph), graph, noise, decide="all").adjacency
    found = benchmark(ancestors, adjacency, graph.decision_node)
    assert found.shape == (4, 16, 17)
    assert found[..., -1].all()


def test_keys_of_requests(benchmark, case):
    requests = [Truthful(None).request(question) for question in case.questions]
    keys = benchmark(lambda: {request.key("model") for request in requests})
    assert len(keys) == len(requests)


def test_reading_recorded_answers(benchmark):
    found = benchmark(RecordedAnswers, recorded_file(RECORDINGS, "agent", SMOLLM2))
    assert SMOLLM2 in found.identity


def test_reading_recorded_features(benchmark):
    questions = load_recorded(RECORDINGS, "mmlu", "train")
    reader = RecordedReader(recorded_file(RECORDINGS, "edge", SMOLLM2))
    assert benchmark(reader.read, questions).shape == (len(questions), 576)


def test_reading_the_index_of_recorded_questions(benchmark):
    assert len(benchmark(load_recorded, RECORDINGS, "mmlu", "train")) > 200


def test_questions_with_cached_answers(benchmark, case):
    adjacency = case.graph.full().expand(32, 16, -1, -1)
    assert benchmark(case.runner.run, case.questions, adjacency).utility.shape == (32, 16)


def test_a_file_of_answers_is_written_and_read_back(benchmark, tmp_path):
    questions, folders = load_questions("sample", "test", limit=32), iter(range(10**6))

    def answer() -> Case:
        return Case(InstantModel(), questions, 4, Path(tmp_path, str(next(folders)))).prepare()

    assert len(benchmark(answer).model.asked) == len(questions)
