"""Loading a causal language model whole, or saying in one sentence why not."""

from __future__ import annotations

import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from dynagent.artefacts.sources import MODEL_FILES, Source, combined_sha256, file_sha256, hub_snapshot
from dynagent.artefacts.weights import check_files
from dynagent.progress import progress

SHOWN = 3  # tensors that a sentence names
PACKAGES = {
    "awq": "autoawq", "gptq": "gptqmodel", "bitsandbytes": "bitsandbytes", "aqlm": "aqlm", "hqq": "hqq",
    "quanto": "optimum-quanto", "torchao": "torchao", "fp8": "kernels", "mxfp4": "kernels", "eetq": "eetq",
    "fbgemm_fp8": "fbgemm-gpu", "higgs": "flute-kernel", "vptq": "vptq", "spqr": "spqr_quant",
}  # fmt: skip


@cache
def faster_precision(device: str) -> str:
    """The precision in which a language model computes unless another is asked for: "bfloat16" or "float32".

    A processor without instructions for bfloat16 emulates them, and is then five to ten times slower than in single
    precision. Two small matrix products tell, once a process; half as fast is still no reason to take twice the memory.
    """
    if device != "cpu":
        return "bfloat16"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        left @ right  # the first product of a kind also sets up its kernel
        seconds[dtype] = min(timeit.repeat(partial(torch.matmul, left, right), number=1, repeat=5))
    return "float32" if 2 * seconds[torch.float32] < seconds[torch.bfloat16] else "bfloat16"


def with_code(folder: str, source: Source) -> Source:
    """Fetch a model's own code beside its weights; the source with a hash over both."""
    if source.kind == "hub":
        hub_snapshot(source.name, [*MODEL_FILES, "*.py"], source.revision)
    code = {file.name: file_sha256(file) for file in Path(folder).glob("*.py")}
    return replace(source, sha256=combined_sha256({"weights": source.sha256} | code)) if code else source


@contextmanager
def refused_in_a_sentence(name: str) -> Iterator[None]:
    """Where the library refuses to run a model's own code, it says so over several lines; here it is one."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name} comes with code of its own, which is not run unasked: read it, then set trust_remote_code to "
            "true, or choose a model that transformers knows."
        ) from None


def load_whole(name: str, folder: str, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model and the tokenizer of a folder.

    Raises:
        ValueError: in one sentence, for files that are damaged, weights that are missing or have another shape than the
            config says, a quantised model without what it needs, and a model that is not causal.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    check_files(Path(folder))
    hook = logging.set_tqdm_hook(lambda _, items, options: progress(*items, **{"delay": 1.0} | options))
    verbosity = logging.get_verbosity()
    quantised = ""
    try:
        logging.set_verbosity_error()  # the library's report on what is missing: here it is an error
        with refused_in_a_sentence(name):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            quantised = _quantisation(config)
            _check_kind(name, config, trust_remote_code)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except _OwnError as error:
        raise ValueError(str(error)) from None
    except (FloatingPointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if quantised:
            package = PACKAGES.get(quantised, quantised)
            raise ValueError(
                f"{name} is quantised with {quantised}, which does not work here ({said}): pip install {package} where "
                "there is a GPU for it, or name a model that is not quantised."
            ) from None
        raise ValueError(f"{name} cannot be loaded ({said}): see to the files in {folder}.") from None
    finally:
        logging.set_tqdm_hook(hook)
        logging.set_verbosity(verbosity)
    if quantised and getattr(model, "hf_quantizer", None) is None:
        raise ValueError(
            f"{name} is quantised with {quantised}, which transformers does not know: name another model, with its "
            "package where it needs one (pip install), or one that is not quantised."
        )
    _check_report(name, folder, report)
    return model, tokenizer


class _OwnError(ValueError):
    """A sentence of ours, which needs no other."""


def _quantisation(config: Any) -> str:
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return ""
    stated = stated if isinstance(stated, dict) else stated.to_dict()
    method = stated.get("quant_method") or "an unknown method"
    return str(getattr(method, "value", method))


def _check_kind(name: str, config: Any, trust_remote_code: bool) -> None:
    """Refuse models that do not write from left to right."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    what = ""
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder with a decoder"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        what = "an encoder"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not (trust_remote_code or hasattr(config, "auto_map")):
        what = "no causal language model that transformers knows"
    if what:
        raise _OwnError(f"{name} is {what} ({kind}), and agents need a causal language model: name another one.")


def _check_report(name: str, folder: str, report: dict[str, Any]) -> None:
    """Refuse weights that were not in the files, which the library has drawn at random."""
    missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    where = ", ".join(file.name for file in sorted(Path(folder).glob("*.safetensors")))
    if mismatched:
        tensor, in_file, in_config = mismatched[0]
        raise ValueError(
            f"{name} has weights of another shape than its config says, in {where}: {tensor} is {tuple(in_file)} and "
            f"should be {tuple(in_config)}{_more(len(mismatched) - 1)}: take both from the same model."
        )
    if missing:
        raise ValueError(
            f"{name} lacks weights, in {where}: {', '.join(missing[:SHOWN])}{_more(len(missing) - SHOWN)}: download it "
            "again, or save it whole with save_pretrained."
        )


def _more(number: int) -> str:
    return f", and {number} more" if number > 0 else ""
