"""The pinned SmolLM2 itself: it knows a little, its neighbours in a batch matter little, its features tell apart."""

import pytest
import torch

from dynagent.artefacts.sources import PINNED
from dynagent.llm.base import Request
from dynagent.llm.load import load_llm
from dynagent.llm.loading import faster_precision
from dynagent.llm.local import READOUTS, TransformersModel
from dynagent.llm.reading import QuestionReader
from dynagent.llm.store import Recorded
from dynagent.tasks.multiple_choice import Question, load_questions
from dynagent.team.agents import Adversarial, Truthful

pytestmark = pytest.mark.slow

NAME = "smollm2-135m-instruct"
CAPITAL = Question("What is the capital of France?", ("London", "Paris", "Berlin", "Madrid"), 1, "geography", "en")
FASTER = faster_precision("cpu")
EMULATED = pytest.mark.skipif(FASTER != "bfloat16", reason="this processor emulates bfloat16, which takes minutes")
QUESTIONS = [CAPITAL, *load_questions("sample", "train", limit=23)]


@pytest.fixture(scope="module")
def models():
    return {dtype: TransformersModel.load(NAME, dtype=dtype) for dtype in ("bfloat16", "float32")}


def test_the_alias_is_the_pinned_artefact():
    llm = load_llm(NAME)
    assert llm.identity == f"{NAME}-{PINNED[NAME].sha256[:12]}-{FASTER}"
    assert llm.path.name == f"{llm.identity}.jsonl"
    assert (llm.model.hidden_size, llm.model.model.dtype) == (576, getattr(torch, FASTER))


def test_it_knows_a_capital(models, tmp_path):
    """Paris is ahead of the others by more than 3 nats, and so says a truthful agent, but not an adversarial one."""
    llm = Recorded(models[FASTER], tmp_path / "calls.jsonl")
    truthful, adversarial = Truthful(llm, temperature=0.2), Adversarial(llm, temperature=0.2)
    (reply,) = llm.reply([truthful.request(CAPITAL)])
    scores = torch.tensor(reply.log_probs)
    assert scores.argmax() == 1
    assert scores[1] - scores[[0, 2, 3]].max() > 3
    assert truthful.option_probs(CAPITAL, reply)[1] > 0.99
    assert adversarial.option_probs(CAPITAL, reply)[1] < 0.01


def test_it_writes_a_sentence_and_ends_it(models):
    chat = (("system", "You are a helpful assistant."), ("user", CAPITAL.text))
    request = Request(chat, max_new_tokens=24)
    for llm in models.values():
        (reply,) = llm.reply([request])
        assert "Paris" in reply.text
        assert "<|" not in reply.text
        assert 2 < reply.completion_tokens < 24
    longer = Request((*chat, ("assistant", reply.text), ("user", "And of Germany?")), max_new_tokens=24)
    assert models["float32"].reply([longer, request])[1] == reply


@pytest.mark.parametrize(
    ("dtype", "largest", "mean"),
    [pytest.param("bfloat16", 0.3, 0.06, marks=EMULATED), ("float32", 1e-3, 1e-4)],
)
def test_neighbours_in_a_batch_change_little(models, dtype, largest, mean):
    """Nats per token over 24 questions; measured: .12 and .03 in bfloat16, .00002 and .000003 in float32."""
    llm = models[dtype]
    requests = [Truthful(None).request(question) for question in QUESTIONS]
    batches = llm.batches(requests)
    assert max(map(len, batches)) > 4
    together = {}
    for batch in batches:
        together |= zip(batch, llm.reply([requests[i] for i in batch]), strict=True)
    changes = []
    for i, request in enumerate(requests):
        (alone,) = llm.reply([request])
        changes.append((torch.tensor(alone.log_probs) - torch.tensor(together[i].log_probs)).abs())
        changes[-1] /= torch.tensor(alone.option_tokens)
    assert torch.cat(changes).max() < largest
    assert torch.cat(changes).mean() < mean


@pytest.mark.parametrize("readout", READOUTS)
def test_features_tell_questions_apart(models, tmp_path, readout):
    reader = QuestionReader(models[FASTER], tmp_path / "features.safetensors")
    features = reader.read(QUESTIONS, readout)
    assert (features.shape, features.isfinite().all()) == ((24, 576), True)
    cosines = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    assert cosines[~torch.eye(24, dtype=torch.bool)].max() < 0.999
    alone = QuestionReader(models[FASTER], tmp_path / "alone.safetensors").read(QUESTIONS[:1], readout)
    assert (alone - features[:1]).norm() < 0.03 * alone.norm()  # measured: .014 at most
    assert (features[1:] - features[:1]).norm(dim=1).min() > 0.1 * alone.norm()
