"""The ledger for people: results/claims.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.common.tables import significant

# The published figures, and where ours are.
FIGURES = {
    "1, from a question to a realized graph": "notebooks/gallery.ipynb",
    "2, edge probabilities: dynamic on MMLU, dynamic on CMMLU, static": "notebooks/specialized_agents.ipynb",
    "2, edge probabilities of 8 truthful and 8 adversarial agents": "notebooks/adversarial_agents.ipynb",
    "3, training curves": "notebooks/adversarial_agents.ipynb",
    "3, the realized graph of Crosswords": "notebooks/crosswords.ipynb",
    "4, ablation: mean embeddings": "notebooks/embedding_ablation.ipynb",
}


def as_markdown(ledger: list[dict[str, Any]]) -> str:
    """The ledger for people."""
    lines = [
        "# What the paper prints, and what we measure", "",
        "Made by `make claims` from the records in results/experiments and results/ablations. Every number is a mean",
        "over seeds, with its 95 % interval. Our language models are smaller than the paper's, so that a bare accuracy",
        "is *not comparable*; an effect (a gain, a ratio, a change of the number of edges) is judged all the same:",
        "*agrees* if ours is in the same direction and reaches the paper's size, *contradicts* if it does not,",
        "*underpowered* if our interval contains no effect and is wider than the paper's effect. *Published recipe* is",
        "the paper's way to train, *default* is ours, on the same questions and the same answers. Each is judged as it",
        "is meant to be used: the published recipe on graphs drawn anew for each question, ours on the most probable",
        "graph. The records hold both for both, and some of the difference between the recipes' accuracies is owed to",
        "that.", "",
        "| claim | paper | published recipe | verdict | default recipe | verdict |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in ledger:
        found = (one, one["default"])
        cells = [text for each in found for text in (number(each), each["verdict"])]
        lines.append(f"| {one['claim']} | {one['paper']} | " + " | ".join(cells) + " |")
    lines += ["", "## How each verdict was reached", ""]
    for one in ledger:
        for name, each in (("published", one), ("default", one["default"])):
            if each.get("judged_by"):
                by, told = each["judged_by"], each.get("gain_if_told")
                limit = f"; told who is truthful, {told.mean:+.1f}" if told else ""
                lines.append(
                    f"- {one['claim']}, {name}: {by['effect']}: {significant(by['ours'])}, paper {by['paper']:.3g}: "
                    f"{each['verdict']} (direction: {by['direction']}"
                    f"{limit}; {each['seeds']} seeds, n = {each['questions']}; `{each['command']}`)"
                )
    lines += ["", "## Figures", "", "| figure | where |", "|---|---|"]
    lines += [f"| {figure} | {where} |" for figure, where in FIGURES.items()]
    return "\n".join(lines) + "\n"


def number(found: Mapping[str, Any]) -> str:
    """Our number with its interval, or a dash."""
    return "–" if found["ours"] is None else significant(found["ours"])
