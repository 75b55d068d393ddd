"""What the reading of a question is worth: how the edge LLM is read, and which edge LLM reads."""

from __future__ import annotations

from studies.common.study import FOLDER, INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, Answer, Study

FEATURES = f"{FOLDER}/features"
OTHER_EDGE_LLMS = (
    "gemma-3-270m-a5fd3b62230a-bfloat16",
    "smollm2-135m-instruct-untrained-0-f1f4b4d68259-bfloat16",
    "smollm2-135m-instruct-untrained-1-25ecce045f23-bfloat16",
    "smollm2-135m-instruct-untrained-2-091326a284d2-bfloat16",
)

EMBEDDING = Study(
    name="embedding_ablation",
    kind="readings/embedding_ablation",
    folder="readings",
    question="Do mean embeddings fail because of what they know, or because of how large they are?",
    settings="studies.readings.embedding:settings",
    measure="studies.readings.measure:measure",
    write="studies.readings.embedding:write",
    record=f"{FOLDER}/embedding_ablation.json",
    inputs=(INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES),
    seeds_together=True,
    answers=(
        Answer(
            "By the published recipe, probabilities vary {} times as much over questions with mean embeddings as "
            "with hidden states; with embeddings as large as hidden states, {} times as much.",
            tuple(
                (
                    "ratios",
                    {"task": "specialized", "recipe": "paper", "learning_rate": 1e-4, "embeddings": name},
                    "ratio",
                )
                for name in ("raw", "as large as the last hidden state")
            ),
            scale=1,
            digits=2,
        ),
    ),
)
MODEL_SIZE = Study(
    name="model_size",
    kind="readings/model_size",
    folder="readings",
    question="What does pretraining of the edge LLM give, and what does another model give?",
    settings="studies.readings.model_size:settings",
    measure="studies.readings.measure:measure",
    write="studies.readings.model_size:write",
    record=f"{FOLDER}/model_size.json",
    inputs=(
        INDEX,
        QWEN_ANSWERS,
        SMOLLM2_FEATURES,
        *(f"{FEATURES}/{name}{suffix}" for name in OTHER_EDGE_LLMS for suffix in (".npz", ".json")),
    ),
    seeds_together=True,
    answers=(
        Answer(
            "Pretraining of the edge LLM gives {} points of accuracy on the specialized team; Gemma-3-270M in "
            "place of SmolLM2-135M gives {}.",
            tuple(
                (
                    "comparisons",
                    {"task": "specialized", "recipe": "default", "readout": "mean_hidden", "comparison": name},
                    "difference",
                )
                for name in ("pretraining: SmolLM2 - untrained", "model: Gemma-3 - SmolLM2")
            ),
        ),
    ),
)
STUDIES = (EMBEDDING, MODEL_SIZE)
