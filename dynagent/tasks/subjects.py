"""The area of each subject: a question's `area` is looked up here by its language and subject.

By language, because the two benchmarks put some subjects that share a name into different areas (anatomy,
computer_security, global_facts ...). English: Hendrycks et al. (arXiv 2009.03300); Chinese: Li et al.
(arXiv 2306.09212), whose fifth group, "China specific", overlaps the other four and is left out. The tables of both,
and that of the sample in either language, lie in `subjects.json`. The name of an area is a subject of it, for
questions of one's own.
"""

from __future__ import annotations

import json
from pathlib import Path

# benchmark -> area -> subjects
SUBJECTS: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("subjects.json").read_text())
# language -> subject -> area
AREAS: dict[str, dict[str, str]] = {
    language: {
        subject: area
        for name in ("sample", benchmark)
        for area, names in SUBJECTS[name].items()
        for subject in (area, *names)
    }
    for language, benchmark in (("en", "mmlu"), ("zh", "cmmlu"))
}
