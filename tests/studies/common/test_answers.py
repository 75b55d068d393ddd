"""The answers in the studies' READMEs are what the records say."""

from __future__ import annotations

import pytest

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.paths import project_root
from studies.common.answers import BLOCK, answer_of, main, shown, value_at, write_answers
from studies.common.workflow import STUDIES

FOLDERS = list(dict.fromkeys(study.folder for study in STUDIES))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_readme_has_the_question_the_answer_and_the_command(folder):
    text = (project_root() / f"studies/{folder}/README.md").read_text(encoding="utf-8")
    (block,) = BLOCK.findall(text)
    assert block == "\n".join(answer_of(study) for study in STUDIES if study.folder == folder and study.answers)
    assert "From [results/" in block
    assert "?" in text[: text.index("<!-- answer -->")]
    assert f"    python -m studies.{folder}" in text


def test_an_answer_is_written_between_its_marks_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.common.answers.resolve_path", lambda path: tmp_path / path)
    readme = tmp_path / "studies/worlds/README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("Why?\n\n<!-- answer -->\nOld.\n<!-- /answer -->\n\nSo.\n")
    write_answers("worlds")
    text = readme.read_text()
    assert text.startswith("Why?\n\n<!-- answer -->\nIn the world")
    assert text.endswith(".\n<!-- /answer -->\n\nSo.\n")
    assert "Old" not in text
    readme.write_text("No place.\n")
    with pytest.raises(ValueError, match="needs one block"):
        write_answers("worlds")


def test_numbers_as_they_are_shown():
    assert shown(Estimate(0.0253, 0.008, 0.0449, 7), 100, 1) == "2.5 [0.8, 4.5]"
    assert shown(0.5, 100, 1) == "50"
    assert value_at({"a": [{"x": 1, "y": "p"}, {"x": 2, "y": "q"}]}, ("a", {"x": 2}, "y")) == "q"
    with pytest.raises(ValueError, match="values to unpack"):
        value_at({"a": [{"x": 1}, {"x": 1}]}, ("a", {"x": 1}))


def test_an_unknown_folder_is_one_sentence(capsys):
    assert main(["worldz"]) == 2
    assert "There is no folder of studies 'worldz'; did you mean 'worlds'?" in capsys.readouterr().err
