"""Whether a model folder's files are whole, from their first bytes: before anything is loaded, and quickly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100 << 20  # bytes, as safetensors itself has it


def check_files(folder: Path) -> None:
    """Check that no file is a pointer or empty, and that every shard holds the tensors that it should, whole.

    Raises:
        ValueError: in one sentence, naming the file and where there is one the tensor.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken") and file.is_file():
            _check_content(file)
    tensors = {file.name: _tensors(file) for file in sorted(folder.glob("*.safetensors"))}
    for index in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = _json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index} has no weight_map: download it again.")
        for tensor, shard in weight_map.items():
            if shard not in tensors:
                raise ValueError(f"{folder / str(shard)} is not there, which holds {tensor}: download the model again.")
            if tensor not in tensors[shard]:
                raise ValueError(f"{folder / str(shard)} lacks the tensor {tensor}: download it again.")


def _check_content(file: Path) -> None:
    with file.open("rb") as opened:
        start = opened.read(len(_POINTER))
    if start == _POINTER:
        raise ValueError(f"{file} is a pointer of Git LFS and not the file itself: run `git lfs pull`.")
    if not start and file.suffix != ".txt":
        raise ValueError(f"{file} is empty: download it again.")
    if file.suffix == ".json":
        _json(file)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not whole, or no JSON: download it again.") from None


def _tensors(file: Path) -> set[str]:
    """The names of the tensors in a safetensors file, all of which lie within it."""
    size = os.path.getsize(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER):
            raise ValueError(f"{file} is not whole, or no safetensors file: download it again.")
        try:
            header = json.loads(opened.read(length))
            ends = {name: int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise ValueError(f"{file} is damaged in its header: download it again.") from None
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        if 8 + length + end > size:
            raise ValueError(f"{file} is cut off within the tensor {name}: download it again.")
    if 8 + length + max(ends.values(), default=0) < size:
        raise ValueError(f"{file} is longer than its header says, so that it is damaged: download it again.")
    return set(ends)
