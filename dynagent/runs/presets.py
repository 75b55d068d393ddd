"""The presets of a run: what each sets that is not the default of `dynagent.runs.config.RunConfig`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"train_limit": 64, "eval_limit": 64, "num_iterations": 30},
    "laptop": {},
    "replay": {
        "data_source": "recordings",
        "team": "specialists",
        "adversary": "colluding",
        "agent_llm": "qwen2.5-coder-1.5b-instruct",
        "agent_mode": "letter",
    },
    "paper": {
        "data_source": "hub",
        "train_split": "dev",
        "eval_split": "val",
        "eval_limit": 1000,
        "num_truthful": 8,
        "num_adversarial": 8,
        "adversary": "constant",
        "edge_llm": "google/gemma-2b",
        "agent_llm": "google/gemma-7b-it",
        "agent_mode": "text",
        "num_iterations": 200,
        "graphs_per_question": 1,
        "estimator": "reinforce",
        "learning_rate": 1e-4,
        "bias_speed": 1.0,
        "readout": "last_hidden",
        "initial_probability": 0.5,
        "order": "fixed",
        "decide": "all",
        "standardize": False,
        "head_init": "default",
    },
}
