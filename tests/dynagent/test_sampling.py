"""Drawn graphs have no cycles, and their log-probability is that of the decisions that were made."""

from itertools import permutations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from dynagent.graph import AgentGraph
from dynagent.sampling import edge_noise, log_prob, most_probable_dags, sample_dags
from dynagent.team.votes import MajorityVote
from tests.support.toy import Knows, chain, enumerate_dags, is_acyclic, naive_outcomes, naive_visit, readers


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits_of(graph: AgentGraph, seed: int = 0, scale: float = 1.0, batch: int | None = None) -> torch.Tensor:
    shape = (graph.num_edges,) if batch is None else (batch, graph.num_edges)
    return scale * torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def some_orders(graph: AgentGraph) -> list[torch.Tensor]:
    """Priorities: with two agents all 24 orders, with three a few random ones."""
    if graph.num_edges == 4:
        return [torch.tensor(order).argsort().float() for order in permutations(range(4))]
    return [torch.rand(graph.num_edges, generator=generator(seed)) for seed in range(6)]


# --- the law of the drawn graphs -----------------------------------------------------------------------------


@pytest.mark.parametrize(("num_agents", "num_outcomes"), [(2, 3 * 2**2), (3, 25 * 2**3)])  # acyclic graphs x votes
def test_probabilities_of_all_graphs_sum_to_one(num_agents, num_outcomes):
    graph = readers(num_agents)
    logits = logits_of(graph, scale=2.0)
    fixed = enumerate_dags(logits, graph, order="fixed")
    for every in (fixed, *(enumerate_dags(logits, graph, priority) for priority in some_orders(graph))):
        assert len(every.taken) == num_outcomes
        assert float(every.log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_the_log_probability_is_that_of_the_plain_product():
    graph = readers(2)
    logits = logits_of(graph, scale=2.0)
    for priority in some_orders(graph):
        every = enumerate_dags(logits, graph, priority)
        plain = naive_outcomes(graph, logits.sigmoid(), priority.argsort().tolist())
        found = dict(zip(map(tuple, every.taken.tolist()), every.log_prob.exp().tolist(), strict=True))
        assert found == pytest.approx({taken: float(prob) for taken, prob in plain.items()}, abs=1e-14)


def chi_square(taken: torch.Tensor, expected: dict[tuple[bool, ...], float]) -> float:
    """p-value of the drawn graphs [n, E] under the expected probabilities; rare graphs are counted together."""
    rows, counts = taken.unique(dim=0, return_counts=True)
    observed = dict(zip(map(tuple, rows.tolist()), counts.tolist(), strict=True))
    assert set(observed) <= set(expected)
    pairs = [(observed.get(graph, 0), prob * len(taken)) for graph, prob in expected.items()]
    rare = [pair for pair in pairs if pair[1] < 5]
    cells = [pair for pair in pairs if pair[1] >= 5] + ([tuple(map(sum, zip(*rare, strict=True)))] if rare else [])
    return float(stats.chisquare(*zip(*cells, strict=True)).pvalue)


@pytest.mark.parametrize("num_agents", [2, 3])
@pytest.mark.parametrize("order", ["fixed", "random"])
def test_graphs_are_drawn_as_often_as_they_are_probable(num_agents, order):
    """In the released order, and given one random order."""
    graph = readers(num_agents)
    logits = logits_of(graph, 1)
    noise = edge_noise(1, 40_000, graph.num_edges, generator(2))
    noise[:, :, 1] = torch.rand(graph.num_edges, generator=generator(3))
    every = enumerate_dags(logits, graph, noise[0, 0, 1], order=order)
    expected = dict(zip(map(tuple, every.taken.tolist()), every.log_prob.exp().tolist(), strict=True))
    dags = sample_dags(logits[None], graph, noise, order=order)
    assert chi_square(dags.taken[0], expected) > 1e-4
    for taken, drawn_log_prob in zip(dags.taken[0, :200], dags.log_prob[0, :200], strict=True):
        assert expected[tuple(taken.tolist())] == pytest.approx(float(drawn_log_prob.exp()), abs=1e-12)


def test_random_orders_are_uniform():
    """Over all its orders, a graph is drawn with the mean of its probabilities given each of the 24."""
    graph = readers(2)
    logits = logits_of(graph, 4, scale=1.5)
    mean: dict[tuple[bool, ...], float] = {}
    for order in permutations(range(4)):
        for taken, prob in naive_outcomes(graph, logits.sigmoid(), order).items():
            mean[taken] = mean.get(taken, 0) + float(prob) / 24
    dags = sample_dags(logits[None], graph, edge_noise(1, 60_000, 4, generator(5)))
    assert chi_square(dags.taken[0], mean) > 1e-4


def test_only_considered_edges_enter_the_log_probability():
    graph = readers(3)
    logits = logits_of(graph, 6).requires_grad_()
    dags = sample_dags(logits[None], graph, edge_noise(1, 50, graph.num_edges, generator(7)))
    assert not dags.considered.all()
    changed = torch.where(dags.considered, logits.detach(), 1e3 * torch.ones_like(logits))
    assert torch.equal(log_prob(changed, dags.taken, dags.considered), dags.log_prob.detach())
    for k in range(50):
        (gradient,) = torch.autograd.grad(dags.log_prob[0, k], logits, retain_graph=True)
        expected = (dags.taken[0, k].double() - logits.detach().sigmoid()) * dags.considered[0, k]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


# --- no cycles, and the plain visit -----------------------------------------------------------------------------

one_operation = st.lists(st.booleans(), min_size=2, max_size=40).map(lambda flags: [Knows(reads=r) for r in flags])
several_operations = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=2, max_size=5).map(
    lambda drawn: [chain(*agent) for agent in drawn]
)
CROSSWORDS = [chain(3), chain(5)]


@settings(max_examples=40)
@given(
    team=st.one_of(one_operation, several_operations),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1.0, 8.0]),
    shift=st.sampled_from([-2.0, 0.0, 4.0]),
    order=st.sampled_from(["random", "fixed"]),
    decide=st.sampled_from(["effective", "all"]),
)
@example(team=[Knows(reads=True)] * 40, seed=0, scale=1.0, shift=4.0, order="random", decide="all")
@example(team=[Knows(reads=False)] * 40, seed=0, scale=0.0, shift=4.0, order="fixed", decide="all")
@example(team=CROSSWORDS, seed=0, scale=1.0, shift=4.0, order="random", decide="effective")
@example(team=CROSSWORDS, seed=0, scale=0.0, shift=0.0, order="fixed", decide="all")
def test_no_graph_has_a_cycle(team, seed, scale, shift, order, decide):
    graph = AgentGraph(team, MajorityVote())
    logits = shift + logits_of(graph, seed, scale, batch=2)
    noise = edge_noise(2, 2, graph.num_edges, generator(seed))
    drawn = sample_dags(logits, graph, noise, order=order, decide=decide)
    best = most_probable_dags(logits, graph, decide=decide)
    for adjacency in (*drawn.adjacency.flatten(0, 1), *best.adjacency.flatten(0, 1)):
        assert is_acyclic(adjacency)
        assert (adjacency & graph.fixed_adjacency).sum() == graph.fixed_adjacency.sum()
    for dags in (drawn, best):
        assert not (dags.taken & ~dags.considered).any()
        assert torch.equal(dags.adjacency, graph.adjacency(dags.taken))
        assert dags.log_prob.isfinite().all()


def assert_visited_plainly(graph, logits, noise, order, decide):
    """The drawn and the most probable graphs are those of the plain loop with the same coins and order."""
    decided = [True] * graph.num_edges if decide == "all" else graph.effective.tolist()
    drawn = sample_dags(logits, graph, noise, order=order, decide=decide)
    for b, k in [(b, k) for b in range(noise.shape[0]) for k in range(noise.shape[1])]:
        coins = (noise[b, k, 0] < logits[b].sigmoid()).tolist()
        visit = noise[b, k, 1].argsort(stable=True).tolist() if order == "random" else range(graph.num_edges)
        assert naive_visit(graph, coins, visit, decided) == (
            drawn.taken[b, k].tolist(),
            drawn.considered[b, k].tolist(),
        )
    best = most_probable_dags(logits, graph, decide=decide)
    for b, row in enumerate(logits.tolist()):
        visit = sorted(range(graph.num_edges), key=lambda e: -row[e])  # stable: early edges first among equals
        taken, considered = naive_visit(graph, [value >= 0 for value in row], visit, decided)
        assert (taken, considered) == (best.taken[b, 0].tolist(), best.considered[b, 0].tolist())


@settings(max_examples=40)
@given(
    team=st.one_of(several_operations, st.lists(st.booleans().map(lambda r: Knows(reads=r)), min_size=1, max_size=8)),
    seed=st.integers(0, 2**31),
    shift=st.sampled_from([-1.0, 0.0, 2.0]),
    order=st.sampled_from(["random", "fixed"]),
    decide=st.sampled_from(["effective", "all"]),
)
@example(team=CROSSWORDS, seed=0, shift=2.0, order="random", decide="all")
def test_the_batched_visit_is_the_plain_one(team, seed, shift, order, decide):
    graph = AgentGraph(team, MajorityVote())
    logits = shift + logits_of(graph, seed, batch=2)
    assert_visited_plainly(graph, logits, edge_noise(2, 3, graph.num_edges, generator(seed)), order, decide)


def test_the_batched_visit_is_the_plain_one_with_forty_agents():
    graph = readers(40)
    logits = logits_of(graph, batch=1)
    assert_visited_plainly(graph, logits, edge_noise(1, 1, graph.num_edges, generator()), "random", "effective")


# --- the order of the visit, and which edges are decided ------------------------------------------------------------


def frequencies(graph: AgentGraph, order: str, num_graphs: int) -> torch.Tensor:
    """How often each potential edge exists at probability one half: [E]."""
    logits = torch.zeros(1, graph.num_edges)
    noise = edge_noise(1, num_graphs, graph.num_edges, generator(11))
    return sample_dags(logits, graph, noise, order=order).taken[0].double().mean(0)


def four_sigma(probability: float, num_graphs: int) -> float:
    return 4 * (probability * (1 - probability) / num_graphs) ** 0.5


def test_random_order_favours_no_edge_and_fixed_order_favours_early_ones():
    n = 20_000
    there, back, *votes = frequencies(readers(2), "random", n).tolist()
    for found in (there, back):  # first in the visit: 1/2; second: 1/4
        assert found == pytest.approx(3 / 8, abs=four_sigma(3 / 8, n))
    there, back, *fixed_votes = frequencies(readers(2), "fixed", n).tolist()
    assert there == pytest.approx(1 / 2, abs=four_sigma(1 / 2, n))
    assert back == pytest.approx(1 / 4, abs=four_sigma(1 / 4, n))
    for vote in (*votes, *fixed_votes):
        assert vote == pytest.approx(1 / 2, abs=four_sigma(1 / 2, n))


def test_random_order_treats_all_pairs_of_many_agents_alike():
    """In the released order an edge out of the first agent is far likelier than one into it."""
    n, graph = 2000, readers(5)
    first_out = (graph.potential_edges[:, 0] == 0) & ~graph.decision_edges
    first_in = graph.potential_edges[:, 1] == 0
    random = frequencies(graph, "random", n)
    between = random[~graph.decision_edges]
    mean = float(between.mean())
    assert float((between - mean).abs().max()) < four_sigma(mean, n)
    fixed = frequencies(graph, "fixed", n)
    assert float(fixed[first_out].mean()) == pytest.approx(1 / 2, abs=four_sigma(1 / 2, 4 * n))
    assert float(fixed[first_in].mean()) < 0.25


def test_edges_that_nobody_reads_are_decided_only_on_request():
    graph = AgentGraph([Knows(reads=True), Knows(), Knows()], MajorityVote())
    logits = torch.full((1, graph.num_edges), 1.5, requires_grad=True)
    noise = edge_noise(1, 500, graph.num_edges, generator(12))
    effective = sample_dags(logits, graph, noise)
    assert not effective.considered[..., ~graph.effective].any()
    assert not effective.taken[..., ~graph.effective].any()
    assert effective.considered[..., graph.effective].all()  # two edges into one reader close no cycle
    (gradient,) = torch.autograd.grad(effective.log_prob.sum(), logits)
    assert not gradient[0, ~graph.effective].any()
    every = sample_dags(logits, graph, noise, decide="all")
    assert every.considered[..., ~graph.effective].any(1).all()
    assert every.taken[..., ~graph.effective].any(1).all()
    assert not most_probable_dags(logits, graph).taken[..., ~graph.effective].any()
    assert most_probable_dags(logits, graph, decide="all").taken[..., ~graph.effective].any()


def test_without_reading_agents_every_vote_is_an_independent_coin():
    graph = AgentGraph([Knows()] * 3, MajorityVote())
    logits = logits_of(graph, 13)
    dags = sample_dags(logits[None], graph, edge_noise(1, 100, graph.num_edges, generator(14)))
    votes = dags.taken[0][:, graph.decision_edges]
    expected = torch.distributions.Bernoulli(logits=logits[graph.decision_edges]).log_prob(votes.double()).sum(-1)
    torch.testing.assert_close(dags.log_prob[0], expected)


@pytest.mark.parametrize("argument", [{"order": "sorted"}, {"decide": "some"}])
def test_unknown_choices_are_refused(argument):
    graph = readers(2)
    with pytest.raises(ValueError, match=next(iter(argument.values()))):
        sample_dags(torch.zeros(1, 4), graph, edge_noise(1, 1, 4, generator()), **argument)


# --- the most probable graph ----------------------------------------------------------------------------------------


def test_the_most_probable_graph_takes_likely_edges_first():
    graph = readers(2)  # 0 -> 1, 1 -> 0, 0 -> decision, 1 -> decision
    probs = torch.tensor([[0.6, 0.9, 0.5, 0.49], [0.9, 0.6, 0.2, 0.8], [0.3, 0.4, 0.1, 0.2]], dtype=torch.float64)
    dags = most_probable_dags(probs.logit(), graph)
    assert dags.taken[:, 0].int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert dags.considered[:, 0].int().tolist() == [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    expected = torch.tensor([0.9 * 0.5 * 0.51, 0.9 * 0.8 * 0.8, 0.7 * 0.6 * 0.9 * 0.8], dtype=torch.float64)
    torch.testing.assert_close(dags.log_prob[:, 0].exp(), expected)


def test_equally_probable_edges_are_visited_in_their_order():
    """So the graph is a function of the logits alone, also before training, where all are equal."""
    graph = readers(20)
    for batch in (1, 3):
        dags = most_probable_dags(torch.zeros(batch, graph.num_edges), graph)
        expected = naive_visit(graph, [True] * 400, range(400), [True] * 400)[0]
        assert dags.taken[:, 0].tolist() == [expected] * batch


def test_noise_of_a_question_does_not_depend_on_the_policy_or_the_processes():
    """Several processes draw the whole batch's numbers; the rows that each keeps are those of one process."""
    graph = readers(3)
    logits = logits_of(graph, batch=4)
    noise = edge_noise(4, 5, graph.num_edges, generator(15))
    assert noise.shape == (4, 5, 2, 9)
    assert torch.equal(noise, edge_noise(4, 5, graph.num_edges, generator(15)))
    whole = sample_dags(logits, graph, noise)
    for mine in (slice(0, None, 2), slice(1, None, 2)):
        part = sample_dags(logits[mine], graph, noise[mine])
        assert torch.equal(part.taken, whole.taken[mine])
        assert torch.equal(part.log_prob, whole.log_prob[mine])
