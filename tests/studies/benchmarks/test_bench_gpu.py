"""The GPU benchmark: it runs from end to end on a CPU, with a tiny model, and says so where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynagent.runs.record import Record
from studies.common.record import load_record
from tests.support.toy import save_tiny_backbone

ROOT = Path(__file__).resolve().parents[3]
FIELDS = {"name", "value", "unit", "goal", "reference", "ratio", "low", "high", "num_samples", "compared_with"} | {
    "against", "at", "line", "met",
}  # fmt: skip
ON_A_GPU = {"peak memory, lora", "peak memory, lora, 2 micro-batches", "peak memory, full"}


def bench(tmp_path, *options) -> tuple[Record, str]:
    command = [sys.executable, "-m", "studies.benchmarks.bench_gpu", "--output", str(tmp_path / "out.json"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return Record.load(tmp_path / "out.json"), done.stdout


@pytest.mark.slow
def test_a_tiny_model_on_a_cpu_fills_every_row_that_needs_no_gpu(tmp_path):
    llm = save_tiny_backbone(tmp_path / "llm")
    result, shown = bench(tmp_path, "--shape", "tiny", "--device", "cpu", "--smollm2", llm)
    rows = {row["name"]: row for row in result.numbers["rows"]}
    assert all(set(row) == FIELDS for row in result.numbers["rows"])
    assert {name for name, row in rows.items() if row["value"] is None} == ON_A_GPU
    assert all(row["value"] > 0 for name, row in rows.items() if name not in ON_A_GPU)
    for name, row in rows.items():
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(row["value"] / row["reference"], rel=1e-2)  # rounded
        if name.endswith("share of the matrix product's rate"):
            assert row["reference"] == rows["matrix product, bf16"]["value"]
            assert row["ratio"] > 0
        assert name in shown or row["value"] is None
    assert result.environment.packages["torch"] == torch.__version__
    assert (result.parameters, result.numbers["note"]) == ({"shape": "tiny", "device": "cpu"}, "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_row_is_there_and_empty(tmp_path):
    result, shown = bench(tmp_path)
    assert "There is no CUDA GPU on this machine" in shown
    assert shown.startswith(result.numbers["note"])
    assert {row["value"] for row in result.numbers["rows"]} == {None}
    committed = load_record("benchmarks/gpu")
    assert [(row["name"], row["unit"]) for row in committed.numbers["rows"]] == [
        (row["name"], row["unit"]) for row in result.numbers["rows"]
    ]
    assert committed.numbers["note"] or committed.environment.hardware["gpus"]
