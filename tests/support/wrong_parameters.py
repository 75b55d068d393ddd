"""Values that no parameter of a run may have, by its name."""

import math

NOT_WHOLE = [-1, 1.5, 2.0, "three", "1.5", "1e3", "-1", "010", "true", "[3]", "", True, math.nan, [1]]
NOT_REAL = ["a tenth", "0,1", "nan", "-0.1", "1e400", "false", "[0.1]", "", True, math.nan, math.inf, -math.inf, [0.1]]
NOT_A_NAME = ["nonsense", "", 3, None, ["no"], True]
NOT_TEXT = ["", None, 3, ["test"], True]
WRONG = {
    **{name: [*NOT_WHOLE, 0, None] for name in ("batch_size", "gradient_accumulation_steps", "graphs_per_question")},
    "num_iterations": [*NOT_WHOLE, 0, None, "all"],
    **{name: [*NOT_WHOLE, 0, None, "every"] for name in ("train_limit", "eval_limit")},
    **{name: [*NOT_WHOLE, None] for name in ("seed", "num_truthful", "num_adversarial")},
    **{name: [*NOT_WHOLE, 0, None] for name in ("num_per_domain", "concurrency")},
    **{name: [*NOT_WHOLE, 0] for name in ("token_budget", "max_new_tokens")},
    "request_options": ["yes", 3, ["top_k"], True, "{", {"top_k": 5}],  # the last without a server
    **{name: [*NOT_REAL, None, 0, -0.1] for name in ("learning_rate", "bias_speed", "temperature")},
    "backbone_learning_rate": [*NOT_REAL, None, 0, -0.1],
    **{name: [*NOT_REAL, None, -0.1] for name in ("sparsity", "cost_weight")},
    "early_stopping": [*NOT_REAL, None, -0.1, 0.51, 1],
    "initial_probability": [*NOT_REAL, None, 0, 1, -0.5, 1.5, "all"],
    **dict.fromkeys(
        ("estimator", "optimizer", "schedule", "order", "decide", "penalise", "mixed_precision"), NOT_A_NAME
    ),
    **dict.fromkeys(("preset", "dataset", "team", "adversary", "agent_mode"), NOT_A_NAME),
    **dict.fromkeys(("edge_policy", "readout", "head_init", "head", "tune"), NOT_A_NAME),
    **dict.fromkeys(("data_source", "train_split", "eval_split", "edge_llm", "agent_llm", "output_dir"), NOT_TEXT),
    **dict.fromkeys(("cmmlu_source", "recordings"), NOT_TEXT),
    **{
        name: ["yes", "no", "1", "", 1, None, 0] for name in ("standardize", "trust_remote_code", "resume", "ask_again")
    },
    "communicate": ["yes", "1", 1, None, 0, True, "true"],  # true with the default estimator, "exact"
    "log_with": ["nonsense", "", 3, ["no"], True],
    "second_agent_llm": ["", 3, ["test"], True, "None", "null", "org/model"],  # the last without the team "two_models"
}
