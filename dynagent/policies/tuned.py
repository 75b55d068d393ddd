"""Edge policies that train the edge LLM itself: adapters in it (LoRA, arXiv 2106.09685), or all of its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import save_file
from torch import Tensor, nn

from dynagent.graph import AgentGraph
from dynagent.llm.base import Readable
from dynagent.llm.local import PADDING, batches_of_similar_length, read_out, token_ids
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.policies.base import LearningRates
from dynagent.policies.edge import EdgePolicy
from dynagent.progress import progress

# After padding, which costs as much as text on a CPU.
TOKENS_PER_BATCH_ON_CPU = 256
TOKENS_PER_BATCH = 8192  # on an accelerator


class TunedEdgePolicy(EdgePolicy):
    """An edge policy whose edge LLM learns together with the head.

    Its inputs are token ids instead of features, since a question has to be read anew after every step. Before the
    first step its logits are those of an `EdgePolicy` on the same weights; the statistics of the features are taken
    then and stay. The language model is a copy of this policy's own, in single precision: an update in half precision
    would often be rounded away. Dropout stays off, also in training, so that logits depend on weights alone.

    `save_pretrained(folder)` writes the head, the statistics, and of the language model what was trained;
    `from_pretrained` loads the original weights by name and puts the trained ones in.

    Args, beside those of `EdgePolicy`, of which init_seed also initialises the adapters:
        tune: "lora" (low-rank adapters beside all linear layers; needs the package peft) or "full".
        rank: of the adapters.
        reader: holds the original weights, which are copied; without it they are loaded by the name `backbone`.

    Raises:
        ModuleNotFoundError: for "lora" without peft.
        ValueError: for a readout that passes by all layers, or original weights that are others than before.
    """

    def __init__(
        self,
        hidden_size: int,
        num_edges: int,
        *,
        tune: str = "lora",
        rank: int = 8,
        reader: QuestionReader | None = None,
        **options: Any,
    ) -> None:
        super().__init__(hidden_size, num_edges, **options)
        if self.readout == "mean_embedding":
            raise ValueError(
                "The readout 'mean_embedding' passes by all layers of the edge LLM, so that tuning them changes "
                "nothing: choose 'mean_hidden' or 'last_hidden', or tune 'head'."
            )
        self.reader = reader
        opened: Any = self.open_reader()  # no recorded features: `from_backbone` refuses them
        original = opened.model
        self.reader = reader  # what was loaded here serves nobody else
        self.tokenizer = original.tokenizer
        language_model = copy.deepcopy(original.model.base_model).to("cpu", torch.float32)
        if tune == "lora":
            language_model = with_adapters(language_model, rank, options.get("init_seed", 0))
        elif tune == "full":
            language_model.requires_grad_(True)
        else:
            raise ValueError(f"A tuned edge policy trains 'lora' or 'full', not {tune!r}.")
        self.language_model = language_model.eval()

    @classmethod
    def from_backbone(cls, backbone: str | QuestionReader | RecordedReader, graph: AgentGraph, **options: Any) -> Self:
        """A new policy on a pretrained language model; see `EdgePolicy.from_backbone`."""
        if isinstance(backbone, RecordedReader):
            raise ValueError("Recorded features cannot be tuned: give the name of the edge LLM, or tune 'head'.")
        reader = QuestionReader.load(backbone) if isinstance(backbone, str) else backbone
        policy = super().from_backbone(reader, graph, reader=reader, **options)
        policy.reader = None if isinstance(backbone, str) else reader
        return policy

    def encode(self, questions: Sequence[Readable]) -> Tensor:
        """Token ids of the questions, padded on the right with `PADDING`: [B, L] long."""
        return token_ids(self.tokenizer, [question.render() for question in questions])

    def fit_standardization(self, ids: Tensor) -> None:
        """Take mean and scale of the features that the language model has now, for token ids [n, L]."""
        if self.standardize:
            with torch.no_grad():
                super().fit_standardization(self.features(ids))

    def forward(self, ids: Tensor) -> Tensor:
        """Edge logits: [B, E] from token ids [B, L]."""
        return super().forward(self.features(ids))

    def features(self, ids: Tensor) -> Tensor:
        """The language model's reading of token ids, [B, H]; questions of similar length go through it together.

        Ids on the CPU are best: to sort by length the host has to see them.
        """
        device = self.feature_mean.device
        lengths = (ids != PADDING).sum(1).tolist()
        most_tokens = TOKENS_PER_BATCH_ON_CPU if device.type == "cpu" else TOKENS_PER_BATCH
        batches = batches_of_similar_length(lengths, most_tokens)
        cut = [ids[batch, : lengths[batch[0]]].to(device, non_blocking=True) for batch in batches]
        places = torch.tensor([i for batch in batches for i in batch]).argsort().to(device, non_blocking=True)
        shown = progress(cut, desc="reading questions", unit="batch", disable=len(cut) < 4)
        return torch.cat([read_out(self.language_model, some)[self.readout] for some in shown])[places]

    def parameter_groups(self, rates: LearningRates) -> list[dict[str, Any]]:
        """The head at `learning_rate`, what is trained of the language model at `backbone_learning_rate`."""
        trained = [parameter for parameter in self.language_model.parameters() if parameter.requires_grad]
        return [*super().parameter_groups(rates), {"params": trained, "lr": rates.backbone_learning_rate}]

    def train(self, mode: bool = True) -> Self:
        """As for every module, but the language model stays in evaluation mode: no dropout."""
        super().train(mode)
        self.language_model.eval()
        return self

    def own_tensors(self) -> dict[str, Tensor]:
        """What is saved, by name: the state without the frozen weights."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.own_tensors().items()}
        save_file(tensors, save_directory / SAFETENSORS_SINGLE_FILE, {"format": "pt"})


def with_adapters(language_model: nn.Module, rank: int, seed: int) -> nn.Module:
    """The model with low-rank adapters beside all linear layers, which are all that is trained; outputs are the same.

    Raises:
        ModuleNotFoundError: without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Tuning with 'lora' needs the package peft: pip install 'dynagent[lora]', or tune 'full' or 'head'."
        ) from None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator of the CPU
        torch.default_generator.manual_seed(seed)
        adapted: nn.Module = inject_adapter_in_model(config, language_model)
    return adapted
