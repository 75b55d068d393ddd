"""What a number depends on is found in the source: imports at any depth, constants, data; and nothing else."""

from __future__ import annotations

import pytest

from dynagent.runs.paths import project_root
from studies.common.dependencies import drawing_code, file_digest, measuring_code, reporting_code
from studies.common.record import load_record, place_of
from studies.common.workflow import STUDIES, node_at, steps
from studies.gallery.figures import FIGURES
from studies.gallery.records import FIGURE_RECORDS


def names(paths):
    return {path.relative_to(project_root()).as_posix() for path in paths}


def test_the_code_of_a_measurement_is_its_module_and_all_that_it_imports():
    code = names(measuring_code("studies.released.no_effect"))
    assert {"studies/released/no_effect.py", "studies/released/training.py", "studies/table2/settings.py"} <= code
    assert {"dynagent/sampling.py", "dynagent/learning/loop.py", "dynagent/team/votes.py"} <= code
    assert {"dynagent/tasks/subjects.json", "dynagent/artefacts/pinned.json", "dynagent/learning/__init__.py"} <= code


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_what_cannot_change_a_number_does_not_count(study):
    code = names(study.code())
    assert "dynagent/graph.py" in code
    assert not {name for name in code if name.startswith(("dynagent/viz", "dynagent/progress", "dynagent/__"))}
    assert "dynagent/policies/model_card.md" not in code


def test_a_figure_counts_how_it_is_drawn_and_a_ledger_does_not():
    figures, ledger = (names(find(f"studies.{module}")) for find, module in
                       ((drawing_code, "gallery.figures"), (reporting_code, "ledger.claims")))  # fmt: skip
    assert {"dynagent/viz/plots.py", "studies/common/plots.py", "studies/gallery/figures.py"} <= figures
    assert {"studies/ledger/claims.py", "dynagent/evaluation/statistics.py"} <= ledger
    assert not {name for name in ledger if "plots" in name}
    assert "dynagent/learning/loop.py" not in figures | ledger  # reaches both through the records


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"no module 'studies\.nothing'"):
        measuring_code("studies.nothing")


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ('"""Other words."""\nN = 50  # a comment\ndef f():\n    "Words."\n    return  (N)\n', True),
        ("N = 51\ndef f():\n    return N\n", False),
        ("N = 50.0\ndef f():\n    return N\n", False),
        ("N = 50\ndef f():\n    return -N\n", False),
        ("N = 50\nN\ndef f():\n    return N\n", False),
    ],
)
def test_source_counts_by_its_syntax_without_docstrings_and_comments(source, same, tmp_path):
    plain, other = tmp_path / "plain.py", tmp_path / "other.py"
    plain.write_text('"""Words."""\nN = 50\n\n\ndef f():\n    """Say."""\n    return N\n')
    other.write_text(source)
    assert (file_digest(plain) == file_digest(other)) is same


def test_every_file_of_the_workflow_is_there_and_made_once():
    products = [product for step in steps().values() for product in step.products]
    assert len(products) == len(set(products))
    for step in steps().values():
        for path in (*step.inputs, *step.products):
            assert node_at(path).state() is not None, path


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_is_where_its_record_says(study):
    place, record = place_of(study.kind), load_record(study.kind)
    assert (place.path, place.command) == (study.record, study.command("laptop", study.seeds["laptop"]))
    assert record.command == place.command
    origins = [*record.parts.values()] or [record]
    assert {len(origin.seeds) for origin in origins} == {study.seeds["laptop"]}


def test_every_figure_is_a_step():
    assert list(FIGURE_RECORDS) == list(FIGURES)
