"""Converts a GGUF file to a Hugging Face folder: `python -m dynagent.artefacts.conversion model.gguf folder`.

It imports nothing from dynagent, so that `dynagent.artefacts.sources` can run it as a process of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def convert_gguf(gguf: str, folder: str) -> None:
    """Write the model in the file `gguf` into `folder`: bfloat16 safetensors, config and tokenizer."""
    import torch
    import transformers

    where, name = os.path.split(os.path.abspath(gguf))
    options: dict[str, Any] = {"gguf_file": name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # releases without it always unpack the weights
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(where, **options)
    # The weights are plain by now, but transformers refuses to save a model that bears these marks.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)


if __name__ == "__main__":
    convert_gguf(*sys.argv[1:])
