"""What the reading of a question is worth: how the edge LLM is read, and which edge LLM reads."""

from __future__ import annotations

from studies.common.study import FOLDER, INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, Study

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
)
STUDIES = (EMBEDDING, MODEL_SIZE)
