"""README: short, and its example runs."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.chat_models import save_chat_model

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_has_at_most_1500_words():
    assert len(README.split()) <= 1500


def test_the_example_runs_with_a_tiny_language_model_and_the_sample_questions(tmp_path):
    """Everything as printed, but for the names of the model and of the data set."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    model = save_chat_model(tmp_path / "model", "llama3")
    replaced = {'"smollm2-135m-instruct"': repr(model), '"mmlu"': '"sample"', "limit=500": "limit=8"}
    for printed, stand_in in replaced.items():
        assert printed in example
        example = example.replace(printed, stand_in)
    example += "\nprint(EdgePolicy.from_pretrained('my-policy').edge_logits_of(questions[:1]).sigmoid())\n"
    environment = {
        "PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "DYNAGENT_CACHE": str(tmp_path),
        "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracy, trained, loaded = re.fullmatch(r"(.+)\n(tensor[^t]+)\n(tensor[^t]+)\n", done.stdout).groups()
    mean, low, high = (
        float(number) for number in re.match(r"([\d.]+) \[([\d.]+), ([\d.]+)\], n = 8$", accuracy).groups()
    )
    assert 0 <= low <= mean <= high <= 1
    probs = [float(number) for number in re.findall(r"\d\.\d+", trained)]
    assert len(probs) == 8 * 8  # the potential edges of eight agents: 8 * 7 among them, 8 into the decision
    assert all(0 < prob < 1 for prob in probs)
    assert trained == loaded
