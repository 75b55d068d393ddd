"""Edge policies: every edge starts where it is told, a saved policy comes back, a reading is the question's alone."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dynagent.llm.local import READOUTS, TransformersModel
from dynagent.llm.reading import QuestionReader
from dynagent.policies.base import initial_probability
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from tests.support.toy import ToyQuestion, readers, save_tiny_backbone

GRAPH = readers(3)
TEXTS = [
    "Why?",
    "What is the capital of France?",
    "x" * 150,
    "水的化学式是什么?",
    "Which of these? " * 7,
    "a",
    "b b",
    "Why not?",
]
QUESTIONS = [ToyQuestion(f"q{i}", 0, 0, text) for i, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def model(backbone) -> TransformersModel:
    return TransformersModel.load(backbone, dtype="float32", device="cpu")


def fitted(policy: EdgePolicy, questions=QUESTIONS) -> EdgePolicy:
    policy.fit_standardization(policy.encode(questions))
    return policy


# --- where it starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("standardize", [True, False])
def test_every_edge_of_every_question_starts_at_the_initial_probability(backbone, probability, standardize):
    dynamic = EdgePolicy.from_backbone(backbone, GRAPH, initial_probability=probability, standardize=standardize)
    static = StaticEdgePolicy.for_graph(GRAPH, probability)
    expected = torch.full((len(QUESTIONS), GRAPH.num_edges), math.log(probability / (1 - probability)))
    assert torch.equal(dynamic.edge_logits_of(QUESTIONS), expected)
    assert torch.equal(fitted(dynamic).edge_logits_of(QUESTIONS), expected)
    assert torch.equal(static.edge_logits_of(QUESTIONS), expected)
    torch.testing.assert_close(expected.sigmoid(), torch.full_like(expected, probability), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("num_agents", "probability"), [(1, 0.375), (8, 0.375), (16, 0.375), (24, 0.25), (64, 6 / 64)])
def test_by_default_six_agents_are_heard_on_average_and_of_few_at_most_three_in_eight(num_agents, probability):
    graph = readers(num_agents)
    assert initial_probability(graph) == probability
    logits = StaticEdgePolicy.for_graph(graph).edge_logits_of(QUESTIONS)
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, probability), rtol=0, atol=1e-6)


def test_a_new_dynamic_policy_starts_at_the_default_of_its_graph(model):
    for graph in (readers(3), readers(24)):
        probs = EdgePolicy.from_backbone(QuestionReader(model), graph).edge_logits_of(QUESTIONS).sigmoid()
        torch.testing.assert_close(probs, torch.full_like(probs, initial_probability(graph)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_a_sure_initial_probability_is_refused(probability):
    for build in (lambda p: EdgePolicy(4, 2, initial_probability=p), lambda p: StaticEdgePolicy(2, p)):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            build(probability)


def test_default_init_is_reproducible_and_does_not_honour_the_initial_probability():
    """The released behaviour."""
    torch.manual_seed(1)
    one = EdgePolicy(32, 500, head_init="default", initial_probability=0.9, init_seed=3)
    torch.manual_seed(2)
    same = EdgePolicy(32, 500, head_init="default", initial_probability=0.9, init_seed=3)
    other = EdgePolicy(32, 500, head_init="default", initial_probability=0.9, init_seed=4)
    assert torch.equal(one.head.weight, same.head.weight)
    assert torch.equal(one.head.bias, same.head.bias)
    assert not torch.equal(one.head.weight, other.head.weight)
    for parameter in one.parameters():  # PyTorch's rule: uniform, as wide as 1 / sqrt(H)
        bound = 1 / math.sqrt(32)
        assert 0.97 * bound < float(parameter.detach().abs().max()) <= bound
        assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    features = 5 * torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    probs = one(features).sigmoid().detach()
    assert float(probs.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(probs.std()) > 0.1


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match="'zero' or 'default', not 'ones'"):
        EdgePolicy(4, 2, head_init="ones")


@pytest.mark.parametrize("kind", [EdgePolicy, StaticEdgePolicy])
def test_logits_that_were_read_out_stay_what_they_were(kind):
    """They carry no gradient, and a later step does not change them."""
    policy = EdgePolicy(4, 3) if kind is EdgePolicy else StaticEdgePolicy(3)
    policy.encode = lambda questions: torch.ones(len(questions), 4)
    logits = policy.edge_logits_of(QUESTIONS[:2])
    assert not logits.requires_grad
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1.0)
    assert torch.equal(logits, torch.zeros(2, 3))


# --- standardisation ---------------------------------------------------------------------------------------------


def test_features_are_standardised_over_the_training_questions_and_have_norm_1(model):
    policy = fitted(EdgePolicy.from_backbone(QuestionReader(model), GRAPH))
    features = policy.encode(QUESTIONS)  # [n, H]
    standardised = (features - policy.feature_mean) / policy.feature_scale
    torch.testing.assert_close(standardised.mean(0), torch.zeros(16), rtol=0, atol=1e-6)
    torch.testing.assert_close(standardised.std(0, correction=0), torch.full((16,), 1 / 4), rtol=1e-4, atol=0)
    assert float(standardised.square().sum(1).mean()) == pytest.approx(1, rel=1e-4)
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    expected = standardised @ policy.head.weight.T + policy.head.bias
    torch.testing.assert_close(policy(features), expected, rtol=0, atol=1e-6)


def test_without_standardisation_the_head_sees_the_features_as_they_are(model):
    options = {"standardize": False, "head_init": "default"}
    policy = fitted(EdgePolicy.from_backbone(QuestionReader(model), GRAPH, **options))
    features = policy.encode(QUESTIONS)
    torch.testing.assert_close(policy(features), features @ policy.head.weight.T + policy.head.bias)


def test_one_training_question_is_enough():
    """It has no deviation; the logits must stay numbers."""
    policy = EdgePolicy(4, 2)
    policy.fit_standardization(torch.tensor([[1.0, -2.0, 0.5, 3.0]]))
    assert policy(torch.randn(3, 4, generator=torch.Generator().manual_seed(0))).isfinite().all()


# --- saved and loaded --------------------------------------------------------------------------------------------


def trained(policy: EdgePolicy) -> EdgePolicy:
    """As if trained: statistics and weights are not the initial ones."""
    with torch.no_grad():
        fitted(policy).head.weight.normal_(generator=torch.Generator().manual_seed(7))
    return policy


@pytest.mark.parametrize("readout", READOUTS)
def test_a_saved_policy_comes_back_to_the_bit(backbone, tmp_path, readout):
    policy = trained(EdgePolicy.from_backbone(backbone, GRAPH, readout=readout, initial_probability=0.1))
    policy.save_pretrained(tmp_path / "saved")
    loaded = EdgePolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.feature_mean, policy.feature_mean)
    assert torch.equal(loaded.feature_scale, policy.feature_scale)
    assert not torch.equal(loaded.feature_scale, torch.ones(16))
    fresh = [ToyQuestion(f"new{i}", 0, 0, f"new question {i}") for i in range(5)]
    for questions in (QUESTIONS, fresh):
        logits = policy.edge_logits_of(questions)
        assert torch.equal(loaded.edge_logits_of(questions), logits)
        assert len(logits.unique(dim=0)) == len(questions), "questions should differ"


def test_a_saved_policy_is_a_small_folder_without_the_backbone(backbone, tmp_path):
    trained(EdgePolicy.from_backbone(backbone, GRAPH)).save_pretrained(tmp_path / "saved")
    files = {file.name for file in (tmp_path / "saved").iterdir()} - {"README.md"}
    assert files == {"config.json", "model.safetensors"}
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as weights:
        shapes = {name: tuple(weights.get_tensor(name).shape) for name in weights.keys()}  # noqa: SIM118
    assert shapes == {"head.weight": (9, 16), "head.bias": (9,), "feature_mean": (16,), "feature_scale": (16,)}
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    identity = TransformersModel.load(backbone).identity
    assert (config["backbone"], config["backbone_identity"]) == (backbone, identity)
    assert (config["readout"], config["hidden_size"], config["num_edges"]) == ("mean_hidden", 16, 9)


def test_a_policy_on_a_reader_of_another_precision_comes_back(backbone, tmp_path):
    """Its identity says float32, so that is how its backbone has to be loaded again."""
    reader = QuestionReader.load(backbone, dtype="float32")
    policy = trained(EdgePolicy.from_backbone(reader, GRAPH))
    policy.save_pretrained(tmp_path / "saved")
    loaded = EdgePolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.edge_logits_of(QUESTIONS), policy.edge_logits_of(QUESTIONS))


def test_a_saved_static_policy_comes_back_to_the_bit(tmp_path):
    policy = StaticEdgePolicy.for_graph(GRAPH, 0.1)
    with torch.no_grad():
        policy.edge_logits.normal_(generator=torch.Generator().manual_seed(0))
    policy.save_pretrained(tmp_path)
    loaded = StaticEdgePolicy.from_pretrained(tmp_path)
    assert torch.equal(loaded.edge_logits, policy.edge_logits)
    assert torch.equal(loaded.edge_logits_of(QUESTIONS), policy.edge_logits.detach().expand(len(QUESTIONS), -1))


def test_a_changed_backbone_is_refused(tmp_path):
    folder = save_tiny_backbone(tmp_path / "backbone", seed=0)
    trained(EdgePolicy.from_backbone(folder, GRAPH)).save_pretrained(tmp_path / "saved")
    EdgePolicy.from_pretrained(tmp_path / "saved").encode(QUESTIONS)
    save_tiny_backbone(tmp_path / "backbone", seed=1)
    loaded = EdgePolicy.from_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"trained on the edge LLM .* give the original weights, or train again"):
        loaded.edge_logits_of(QUESTIONS)


# --- what the backbone makes of a question -------------------------------------------------------------------------


@pytest.mark.parametrize("readout", READOUTS)
def test_readouts_are_those_of_the_question_read_alone(model, readout):
    policy = EdgePolicy.from_backbone(QuestionReader(model), GRAPH, readout=readout)
    for question, found in zip(QUESTIONS, policy.encode(QUESTIONS), strict=True):
        ids = model.tokenizer(question.render()).input_ids
        with torch.no_grad():
            states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]  # [L, H]
            embeddings = model.model.get_input_embeddings().weight
        naive = {
            "last_hidden": states[-1],
            "mean_hidden": sum(states) / len(ids),
            "mean_embedding": sum(embeddings[i] for i in ids) / len(ids),
        }[readout]
        torch.testing.assert_close(found, naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [60, 400, 10_000])
def test_logits_of_a_question_do_not_depend_on_its_neighbours(model, tmp_path, tokens_per_batch):
    """Alone, or in batches of other lengths and in other orders."""
    alone = QuestionReader(model, tmp_path / "alone")
    policies = [EdgePolicy.from_backbone(alone, GRAPH, readout=name, head_init="default") for name in READOUTS]
    expected = []
    for policy in policies:
        expected.append(torch.cat([policy.edge_logits_of([question]) for question in QUESTIONS]))
        assert float(expected[-1].std(0).min()) > 0.01, "questions should differ"
    batched = TransformersModel(model.model, model.tokenizer, model.source, tokens_per_batch)
    orders = [list(range(8)), list(range(7, -1, -1)), [3, 0, 5, 2, 6, 1, 7, 4], [2, 0], [0, 0, 4, 0]]
    for number, order in enumerate(orders):
        reader = QuestionReader(batched, tmp_path / f"{number}")
        for policy, logits in zip(policies, expected, strict=True):
            policy.reader = reader
            found = policy.edge_logits_of([QUESTIONS[i] for i in order])
            torch.testing.assert_close(found, logits[order], rtol=0, atol=1e-5)


def test_a_batch_holds_no_more_tokens_than_allowed(model):
    lengths = [len(model.tokenizer(text).input_ids) for text in TEXTS]
    small = TransformersModel(model.model, model.tokenizer, model.source, tokens_per_batch=60)
    batches = small.encode_batches(TEXTS)
    assert sorted(i for batch in batches for i in batch) == list(range(len(TEXTS)))
    assert len(batches) > 2
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60


def test_a_question_is_read_once(backbone):
    reader = QuestionReader.load(backbone)
    policy = EdgePolicy.from_backbone(reader, GRAPH)
    first = policy.encode(QUESTIONS)
    assert reader.forwards == len(QUESTIONS)
    assert torch.equal(policy.encode(QUESTIONS[::-1]), first.flip(0))
    assert reader.forwards == len(QUESTIONS)
    again = QuestionReader.load(backbone)  # another process finds the features on disk
    assert torch.equal(EdgePolicy.from_backbone(again, GRAPH).encode(QUESTIONS), first)
    assert again.forwards == 0
    assert Path(again.path).exists()


def test_an_unknown_readout_is_refused(backbone):
    with pytest.raises(ValueError, match=r"one of last_hidden, mean_hidden, mean_embedding, not 'first'"):
        EdgePolicy.from_backbone(backbone, GRAPH, readout="first").encode(QUESTIONS)
