"""Tuned edge policies: what training changes and what it leaves alone, gradients, padding, saving, two processes."""

import json
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.local import PADDING, TransformersModel
from dynagent.llm.reading import QuestionReader, RecordedReader, save_features
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.tuned import TunedEdgePolicy
from dynagent.runs.build import build_policy
from dynagent.runs.config import RunConfig
from dynagent.runs.record import RunRecord
from dynagent.runs.run import run_experiment
from tests.support.toy import ToyQuestion, in_two_processes, save_tiny_backbone, toy_graph

GRAPH = toy_graph()
TEXTS = [
    "Why?",
    "What is the capital of France?",
    "x" * 150,
    "水的化学式是什么?",
    "Which of these? " * 7,
    "a",
    "b b",
    "Who?",
]
QUESTIONS = [ToyQuestion(f"q{i}", i % 2, (3 * i) % 4, text) for i, text in enumerate(TEXTS)]
STATISTICS = {"feature_mean", "feature_scale"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def reader(backbone) -> QuestionReader:
    return QuestionReader(TransformersModel.load(backbone, dtype="float32", device="cpu"))


def fit(policy, **options):
    config = TrainConfig(**({"num_iterations": 6, "backbone_learning_rate": 0.01} | options))
    return train(policy, GRAPH, QUESTIONS, config, accelerator=Accelerator(cpu=True))


def tensors_of(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module, before) -> set[str]:
    after = module.state_dict()
    assert after.keys() == before.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


# --- what training changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_training_changes_what_is_tuned_and_nothing_else(reader, tune):
    policy = TunedEdgePolicy.from_backbone(reader, GRAPH, tune=tune)
    before, shared = tensors_of(policy), tensors_of(reader.model.model)
    fit(policy)
    in_the_model = {name for name in before if name.startswith("language_model.")}
    tuned = {name for name in in_the_model if "lora_" in name} if tune == "lora" else in_the_model
    # Two adapter matrices beside each of seven linear layers in each of two blocks.
    assert len(tuned) == (2 * 7 * 2 if tune == "lora" else len(shared) - ("lm_head.weight" in shared))
    assert changed(policy, before) == tuned | {"head.weight", "head.bias"} | STATISTICS
    assert changed(reader.model.model, shared) == set(), "the model that others use"


def test_the_head_alone_leaves_the_model(reader):
    policy = EdgePolicy.from_backbone(reader, GRAPH)
    before, shared = tensors_of(policy), tensors_of(reader.model.model)
    fit(policy)
    assert changed(policy, before) == {"head.weight", "head.bias"} | STATISTICS
    assert changed(reader.model.model, shared) == set()


def test_one_trained_policy_does_not_touch_another(reader):
    trained, other = (TunedEdgePolicy.from_backbone(reader, GRAPH, tune="full") for _ in range(2))
    before = tensors_of(other)
    fit(trained)
    assert changed(other, before) == set()


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_groups_hold_every_trained_parameter_once_at_its_rate(reader, tune):
    policy = TunedEdgePolicy.from_backbone(reader, GRAPH, tune=tune)
    config = TrainConfig(learning_rate=0.3, bias_speed=2, backbone_learning_rate=0.002)
    weight, bias, model = groups = policy.parameter_groups(config)
    assert (weight["lr"], bias["lr"], model["lr"]) == (0.3, 0.6, 0.002)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = [id(parameter) for parameter in policy.parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(wanted)
    assert (weight["params"][0] is policy.head.weight, bias["params"][0] is policy.head.bias) == (True, True)


def test_training_uses_the_rate_of_each_group(reader):
    """A step of gradient descent is in proportion to the rate, of the backbone's and of the head's alone."""
    moves = []
    for rates in ((0.1, 1e-3), (0.1, 3e-3), (0.2, 1e-3)):
        policy = TunedEdgePolicy.from_backbone(reader, GRAPH, tune="full", head_init="default").double()
        before = tensors_of(policy)
        learning_rate, backbone_learning_rate = rates
        fit(policy, num_iterations=1, optimizer="sgd", learning_rate=learning_rate,
            backbone_learning_rate=backbone_learning_rate)  # fmt: skip
        names = ("head.weight", "language_model.layers.0.mlp.up_proj.weight")
        moves.append([policy.state_dict()[name] - before[name] for name in names])
    assert min(float(move.norm()) for move in moves[0]) > 1e-6
    for index, factors in ((1, (1, 3)), (2, (2, 1))):
        for move, first, factor in zip(moves[index], moves[0], factors, strict=True):
            torch.testing.assert_close(move, factor * first, rtol=1e-6, atol=1e-15)


def test_gradient_of_an_adapter_is_a_finite_difference(reader):
    policy = TunedEdgePolicy.from_backbone(reader, GRAPH, head_init="default").double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # at zero it would hide the other matrix
            parameter.data.normal_(std=0.1, generator=generator)
    ids = policy.encode(QUESTIONS[:4])
    policy.fit_standardization(ids)
    weights = torch.randn(4, GRAPH.num_edges, generator=generator, dtype=torch.float64)
    (policy(ids) * weights).sum().backward()
    layer = policy.language_model.layers[0].self_attn.q_proj
    for matrix in (layer.lora_A.default.weight, layer.lora_B.default.weight):
        for direction in (matrix.grad.clone(), torch.randn(matrix.shape, generator=generator).double()):
            step = 1e-2 * direction / direction.norm()  # no smaller, since Llama's norms compute in single precision
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    matrix += sign * step
                    values.append(float((policy(ids) * weights).sum()))
                    matrix -= sign * step
            slope = float((matrix.grad * step).sum())
            assert values[0] - values[1] == pytest.approx(2 * slope, rel=2e-3)
            assert abs(slope) > 1e-4


def test_the_same_seed_gives_the_same_training_to_the_bit(reader):
    weights = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # nothing hangs on the global generator
        policy = TunedEdgePolicy.from_backbone(reader, GRAPH, init_seed=3)
        state = torch.get_rng_state()
        fit(policy)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(policy.own_tensors())
    for name, tensor in weights[0].items():
        assert torch.equal(weights[1][name], tensor), name
    other = TunedEdgePolicy.from_backbone(reader, GRAPH, init_seed=4)
    assert not torch.equal(other.language_model.layers[0].mlp.up_proj.lora_A.default.weight,
                           policy.language_model.layers[0].mlp.up_proj.lora_A.default.weight)  # fmt: skip


# --- logits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["mean_hidden", "last_hidden"])
@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("standardize", [True, False])
def test_before_the_first_step_logits_are_those_of_the_head_alone(reader, tune, readout, standardize):
    options = {"readout": readout, "standardize": standardize, "head_init": "default", "init_seed": 5}
    policies = [EdgePolicy.from_backbone(reader, GRAPH, **options)]
    policies.append(TunedEdgePolicy.from_backbone(reader, GRAPH, tune=tune, **options))
    for policy in policies:
        policy.fit_standardization(policy.encode(QUESTIONS))
    expected, found = (policy.edge_logits_of(QUESTIONS) for policy in policies)
    assert float(expected.std(0).min()) > 0.01, "questions should differ"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [100, 10_000])
@pytest.mark.parametrize("gradient", [True, False])
def test_padding_does_not_change_a_questions_logits(reader, gradient, tokens_per_batch, monkeypatch):
    monkeypatch.setattr("dynagent.policies.tuned.TOKENS_PER_BATCH", (tokens_per_batch, 0))
    policy = TunedEdgePolicy.from_backbone(reader, GRAPH, head_init="default")
    fit(policy)
    with torch.set_grad_enabled(gradient):
        alone = torch.cat([policy(policy.encode([question])) for question in QUESTIONS])
        assert float(alone.detach().std(0).min()) > 0.01, "questions should differ"
        for order in (list(range(8)), [5, 2, 0], [7, 6, 5, 4, 3, 2, 1, 0]):
            ids = policy.encode([QUESTIONS[i] for i in order])
            padded = torch.nn.functional.pad(ids, (0, 9), value=PADDING)
            for given in (ids, padded):
                torch.testing.assert_close(policy(given), alone[order], rtol=0, atol=1e-5)


def test_token_ids_are_the_tokenizers(reader):
    ids = TunedEdgePolicy.from_backbone(reader, GRAPH).encode(QUESTIONS)
    assert ids.dtype == torch.long
    for question, row in zip(QUESTIONS, ids.tolist(), strict=True):
        expected = reader.model.tokenizer(question.render()).input_ids
        assert row == expected + [PADDING] * (ids.shape[1] - len(expected))


def test_the_model_is_in_single_precision_and_never_drops_out(backbone):
    policy = TunedEdgePolicy.from_backbone(backbone, GRAPH).train()  # loaded by name in half precision
    assert policy.training
    assert not any(module.training for module in policy.language_model.modules())
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}


# --- saved and loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_saved_policy_comes_back_to_the_bit(backbone, tmp_path, tune, precision):
    reader = QuestionReader.load(backbone, dtype=precision)
    policy = TunedEdgePolicy.from_backbone(reader, GRAPH, tune=tune, rank=3, readout="last_hidden")
    untrained = policy.edge_logits_of(QUESTIONS)
    fit(policy)
    policy.save_pretrained(tmp_path / "saved")
    logits = policy.edge_logits_of(QUESTIONS)
    assert not torch.allclose(logits, untrained, atol=1e-3)
    loaded = TunedEdgePolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.edge_logits_of(QUESTIONS), logits)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in policy.named_parameters() if p.requires_grad
    }
    fit(loaded)  # and can be trained further
    assert not torch.equal(loaded.edge_logits_of(QUESTIONS), logits)


def test_frozen_weights_are_not_saved(reader, tmp_path):
    TunedEdgePolicy.from_backbone(reader, GRAPH).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {name for name in names if "lora_" not in name} == {"head.weight", "head.bias"} | STATISTICS
    assert json.loads((tmp_path / "config.json").read_text())["backbone_identity"] == reader.identity


def test_a_saved_policy_is_loaded_by_its_class_alone(reader, tmp_path):
    """Any other would leave tensors aside, and so would the right one for a folder that lacks some."""
    TunedEdgePolicy.from_backbone(reader, GRAPH).save_pretrained(tmp_path / "tuned")
    assert "from dynagent.policies.tuned import TunedEdgePolicy\n" in (tmp_path / "tuned" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"does not hold the tensors of the class EdgePolicy: load it with the class"):
        EdgePolicy.from_pretrained(tmp_path / "tuned")
    EdgePolicy.from_backbone(reader, GRAPH).save_pretrained(tmp_path / "head")
    assert "from dynagent.policies.edge import EdgePolicy\n" in (tmp_path / "head" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"does not hold the tensors of the class TunedEdgePolicy"):
        TunedEdgePolicy.from_pretrained(tmp_path / "head")
    tensors = load_file(tmp_path / "tuned" / "model.safetensors")
    tensors.popitem()
    save_file(tensors, tmp_path / "tuned" / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not hold the tensors of the class TunedEdgePolicy"):
        TunedEdgePolicy.from_pretrained(tmp_path / "tuned")


def test_a_changed_backbone_is_refused(tmp_path):
    folder = save_tiny_backbone(tmp_path / "backbone", seed=0)
    TunedEdgePolicy.from_backbone(folder, GRAPH).save_pretrained(tmp_path / "saved")
    save_tiny_backbone(tmp_path / "backbone", seed=1)
    with pytest.raises(ValueError, match=r"trained on the edge LLM .* give the original weights, or train again"):
        TunedEdgePolicy.from_pretrained(tmp_path / "saved")


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_without_peft_the_error_names_the_command(reader, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package peft: pip install 'dynagent\[lora\]'"):
        TunedEdgePolicy.from_backbone(reader, GRAPH, tune="lora")
    TunedEdgePolicy.from_backbone(reader, GRAPH, tune="full")


def test_what_cannot_be_tuned_is_refused(reader, tmp_path):
    with pytest.raises(ValueError, match="'mean_embedding' passes by all layers"):
        TunedEdgePolicy.from_backbone(reader, GRAPH, readout="mean_embedding")
    with pytest.raises(ValueError, match="trains 'lora' or 'full', not 'head'"):
        TunedEdgePolicy.from_backbone(reader, GRAPH, tune="head")
    recorded = RecordedReader(save_features(reader, QUESTIONS, tmp_path))
    with pytest.raises(ValueError, match="Recorded features cannot be tuned: give the name of the edge LLM"):
        TunedEdgePolicy.from_backbone(recorded, GRAPH)


@pytest.mark.parametrize("options", [{"edge_policy": "static"}, {"head": "agent_aware"}])
def test_a_run_that_tunes_needs_an_edge_llm_and_a_head_for_each_edge(options):
    with pytest.raises(ValueError, match="tune 'lora' needs edge_policy 'dynamic' and head 'per_edge'"):
        RunConfig(tune="lora", **options)


@pytest.mark.parametrize(("name", "value"), [("tune", "all"), ("backbone_learning_rate", 0)])
def test_a_bad_value_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        RunConfig(**{name: value})


# --- a run -------------------------------------------------------------------------------------------------------


def test_a_run_builds_the_policy_that_it_names(reader):
    assert type(build_policy(RunConfig(), GRAPH, reader)) is EdgePolicy
    for tune in ("lora", "full"):
        policy = build_policy(RunConfig(tune=tune), GRAPH, reader)
        assert isinstance(policy, TunedEdgePolicy)
        assert any("lora_" in name for name in policy.state_dict()) == (tune == "lora")


def test_a_run_that_tunes_leaves_a_policy_and_a_record(backbone, tmp_path):
    config = RunConfig(
        dataset="sample", edge_llm=backbone, agent_llm=backbone, tune="lora", backbone_learning_rate=0.01,
        train_limit=16, eval_limit=12, num_truthful=1, num_adversarial=1, output_dir=str(tmp_path / "runs"),
    )  # fmt: skip
    folder = run_experiment(config, "a test")
    record = RunRecord.load(folder / "record.json")
    assert (record.parameters["tune"], len(record.history)) == ("lora", 4)
    assert any(backbone == source.name for source in record.inputs)
    loaded = TunedEdgePolicy.from_pretrained(folder / "policy")
    moved = [t for name, t in loaded.own_tensors().items() if "lora_B" in name]
    assert all(tensor.abs().max() > 0 for tensor in moved)


# --- several processes -------------------------------------------------------------------------------------------


def train_tuned(backbone: str, accumulate: tuple[int, ...] = (1,)) -> dict[str, dict[str, torch.Tensor]]:
    """What 20 steps make of head and language model, in one process or in several; in double precision but for one."""
    reader = QuestionReader(TransformersModel.load(backbone, dtype="float32", device="cpu"))
    trained = {}
    for tune in ("lora", "full"):
        for estimator in ("exact", "leave_one_out"):
            for steps in accumulate:
                policy = TunedEdgePolicy.from_backbone(reader, GRAPH, tune=tune).double()
                fit(policy, num_iterations=20, estimator=estimator, gradient_accumulation_steps=steps)
                trained[f"{tune}/{estimator}/{steps}"] = policy.own_tensors()
    single = TunedEdgePolicy.from_backbone(reader, GRAPH, tune="lora")
    fit(single, num_iterations=20, estimator="exact")
    return trained | {"float32": single.own_tensors()}


@pytest.fixture(scope="module")
def one_process(backbone):
    return train_tuned(backbone, (1, 4))


@pytest.fixture(scope="module")
def two_processes(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return in_two_processes(folder, f"tests.dynagent.policies.test_tuned.train_tuned({backbone!r}, (1, 2))")


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    moved = sum(bool(tensor.abs().max() > 1e-3) for tensor in expected.values())
    assert moved > 14
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["exact", "leave_one_out"])
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_micro_batches_train_what_their_batch_does(tune, estimator, one_process):
    assert_same_weights(one_process[f"{tune}/{estimator}/4"], one_process[f"{tune}/{estimator}/1"])


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("estimator", ["exact", "leave_one_out"])
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_two_processes_train_what_one_does(tune, estimator, steps, one_process, two_processes):
    for process in two_processes:
        assert_same_weights(process[f"{tune}/{estimator}/{steps}"], one_process[f"{tune}/{estimator}/1"])


@pytest.mark.slow
def test_in_single_precision_two_processes_differ_by_rounding(one_process, two_processes):
    """Head and LoRA; seen: a few 1e-7."""
    for process in two_processes:
        assert_same_weights(process["float32"], one_process["float32"], atol=1e-5)
