"""The graph counts its edges as the paper does and puts each where adjacency[i, j] says that i speaks to j."""

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.graph import AgentGraph
from dynagent.team.votes import MajorityVote
from tests.support.toy import Knows, chain, readers

teams = st.lists(
    st.one_of(
        st.booleans().map(lambda reads: Knows(reads=reads)),
        st.tuples(st.integers(1, 5), st.booleans()).map(lambda drawn: chain(*drawn)),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("num_agents", [1, 2, 3, 8, 17, 40])
def test_agents_of_one_operation_have_a_square_of_potential_edges(num_agents):
    graph = readers(num_agents)
    assert (graph.num_nodes, graph.num_edges) == (num_agents + 1, num_agents**2)
    agents = range(num_agents)
    pairs = [[i, j] for i in agents for j in agents if i != j] + [[i, num_agents] for i in agents]
    assert graph.potential_edges.tolist() == pairs
    assert int(graph.fixed_adjacency.sum()) == 0


def test_crosswords_team_has_the_papers_numbers():
    graph = AgentGraph([chain(3), chain(5)], MajorityVote())
    assert (graph.num_nodes, graph.num_edges, int(graph.fixed_adjacency.sum())) == (9, 36, 8)
    fixed = [[0, 1], [1, 2], [2, 8], [3, 4], [4, 5], [5, 6], [6, 7], [7, 8]]
    assert graph.fixed_adjacency.nonzero().tolist() == fixed
    # Between the agents 2 x 3 x 5, and into the decision all but the two outputs, which are fixed.
    assert graph.potential_edges[graph.decision_edges, 0].tolist() == [0, 1, 3, 4, 5, 6]
    assert int((~graph.decision_edges).sum()) == 30


@settings(max_examples=60)
@given(teams)
def test_potential_and_fixed_edges_share_out_all_that_is_possible(team):
    graph = AgentGraph(team, MajorityVote())
    potential = {tuple(edge) for edge in graph.potential_edges.tolist()}
    fixed = {tuple(edge) for edge in graph.fixed_adjacency.nonzero().tolist()}
    owner = [node.agent for node in graph.nodes]
    assert len(potential) == graph.num_edges
    assert not potential & fixed
    assert {(i, j) for i, j in potential if owner[i] == owner[j]} == set()
    between = {(i, j) for i, a in enumerate(owner[:-1]) for j, b in enumerate(owner[:-1]) if a != b}
    into_decision = {(i, graph.decision_node) for i in range(graph.decision_node)}
    assert between <= potential
    assert into_decision <= potential | fixed
    inside = {(i, i + 1) for i in range(graph.decision_node - 1) if owner[i] == owner[i + 1]}
    assert potential | fixed == between | into_decision | inside
    drawn = nx.from_numpy_array(graph.fixed_adjacency.numpy(), create_using=nx.DiGraph)
    assert nx.is_directed_acyclic_graph(drawn)


@settings(max_examples=60)
@given(teams)
def test_an_edge_is_effective_if_its_target_reads(team):
    graph = AgentGraph(team, MajorityVote())
    for (_, target), effective in zip(graph.potential_edges.tolist(), graph.effective.tolist(), strict=True):
        assert effective == (target == graph.decision_node or graph.nodes[target].operation.reads)


def test_of_non_reading_agents_only_the_edges_into_the_decision_are_effective():
    graph = AgentGraph([Knows()] * 16, MajorityVote())
    assert torch.equal(graph.effective, graph.decision_edges)
    assert (graph.num_edges, int(graph.effective.sum())) == (256, 16)


def test_the_same_agent_several_times_is_several_nodes():
    team = [Knows(group="truthful")] * 2 + [Knows(group="adversarial")] + [Knows(group="truthful")]
    graph = AgentGraph(team, MajorityVote())
    assert [node.agent for node in graph.nodes] == [0, 1, 2, 3, None]
    assert graph.groups == ["truthful", "adversarial"]


def test_adjacency_puts_every_edge_in_its_place():
    graph = AgentGraph([chain(2), Knows(), Knows(reads=True)], MajorityVote())
    values = torch.rand(2, 3, graph.num_edges, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = graph.adjacency(values)
    assert (matrix.shape, matrix.dtype) == ((2, 3, 5, 5), torch.float64)
    for b in range(2):
        for k in range(3):
            expected = graph.fixed_adjacency.double()
            for edge, (source, target) in enumerate(graph.potential_edges.tolist()):
                expected[source, target] = values[b, k, edge]
            assert torch.equal(matrix[b, k], expected)
    taken = values[0, 0] > 0.5
    assert graph.adjacency(taken).dtype == torch.bool
    assert torch.equal(graph.adjacency(taken), graph.adjacency(taken.double()) > 0)
    assert int(graph.fixed_adjacency.sum()) == 2, "the graph's own fixed edges must not change"


def test_full_and_single():
    graph = readers(3)
    full = torch.zeros(4, 4, dtype=torch.bool)
    full[:3, 3] = True
    assert torch.equal(graph.full(), full)
    for node in range(3):
        assert graph.single(node).nonzero().tolist() == [[node, 3]]


def test_networkx_graph_has_the_same_edges_and_weights():
    graph = AgentGraph([chain(2), Knows(name="Reader", group="g", reads=True)], MajorityVote())
    probs = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 0.125])
    assert graph.num_edges == len(probs)
    drawn = graph.to_networkx(probs)
    assert dict(drawn.nodes(data="name")) == {0: "step 0", 1: "step 1", 2: "Reader", 3: "decision"}
    expected = {tuple(e): p for e, p in zip(graph.potential_edges.tolist(), probs.tolist(), strict=True) if p > 0}
    expected |= {(0, 1): 1.0, (1, 3): 1.0}
    assert {(i, j): weight for i, j, weight in drawn.edges(data="weight")} == expected
    assert set(graph.to_networkx(probs > 0.6).edges) == {e for e, p in expected.items() if p > 0.6}


def test_an_empty_team_is_refused():
    with pytest.raises(ValueError, match="at least one agent"):
        AgentGraph([], MajorityVote())
