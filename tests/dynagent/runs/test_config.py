"""Parameters of a run: what is wrong is found at once and named, what is given is what is used."""

import json
import pickle
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from accelerate.utils import LoggerType
from papermill.translators import PythonTranslator
from pydantic import Field

from dynagent.learning.config import TrainConfig
from dynagent.parameters import Count, OneOf, Parameters, Positive, nearest
from dynagent.runs import paths
from dynagent.runs.config import RunConfig, Tracker
from dynagent.runs.paths import project_root, resolve_path
from dynagent.runs.presets import PRESETS
from tests.support.wrong_parameters import WRONG

ROOT = Path(__file__).resolve().parents[3]


def assert_one_sentence(error, name):
    text = str(error)
    assert name in text
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 250


def test_every_field_has_wrong_values():
    assert set(WRONG) == set(RunConfig.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_sentence_that_names_the_field(name, value):
    with pytest.raises(ValueError) as caught:
        RunConfig(**{name: value})
    assert_one_sentence(caught.value, name)
    if value is not None:
        with pytest.raises(ValueError) as caught:
            RunConfig.from_parameters({name: value})
        assert_one_sentence(caught.value, name)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("batch_size", 0, "batch_size has to be a whole number of 1 or more, not 0."),
        ("num_adversarial", True, "num_adversarial has to be a whole number of 0 or more, not True."),
        ("train_limit", 0, "train_limit has to be a whole number of 1 or more, or 'all', not 0."),
        ("sparsity", -1, "sparsity has to be a finite number of 0 or more, not -1."),
        ("temperature", 0, "temperature has to be a finite number above 0, not 0."),
        ("optimizer", "adm", "optimizer 'adm' is not known; did you mean 'adam'? Known: adam, sgd."),
        ("resume", "no", "resume has to be true or false, not 'no'."),
        ("train_split", "", "train_split has to be a text that is not empty, not ''."),
        (
            "second_agent_llm",
            3,
            "second_agent_llm has to be a text that is not empty, or None, not 3 (a text is in quotes, and papermill "
            "takes one as -r).",
        ),
        (
            "second_agent_llm",
            "None",
            "second_agent_llm 'None' may be a name or nothing: write null in JSON and YAML, None in Python.",
        ),
        (
            "mixed_precision",
            False,  # what YAML makes of no
            "mixed_precision False is not known (a text is in quotes, and papermill takes one as -r); Known: bf16, no.",
        ),
        (
            "num_iterations",
            "1e3",
            "num_iterations has to be a whole number of 1 or more, or 'auto', not '1e3' (write 1000).",
        ),
        ("seed", 2.0, "seed has to be a whole number of 0 or more, not 2.0 (write 2)."),
        ("seed", "010", "seed has to be a whole number of 0 or more, not '010' (write it like 1000 or 0.001)."),
        ("seed", "two", "seed has to be a whole number of 0 or more, not 'two'."),
        ("sparsity", "0,1", "sparsity has to be a finite number of 0 or more, not '0,1'."),
        ("train_split", None, "train_split has to be a text that is not empty, not None."),
        (
            "log_with",
            "tensorbord",
            "log_with 'tensorbord' is not known; did you mean 'tensorboard'? Known: None, aim, clearml, comet_ml, "
            "dvclive, mlflow, swanlab, tensorboard, trackio, wandb.",
        ),
        (
            "early_stopping",
            0.6,
            "early_stopping has to be a finite number from 0 to 0.5 (it holds out at most half of the "
            "questions), not 0.6.",
        ),
        (
            "initial_probability",
            1,
            "initial_probability has to be a finite number strictly between 0 and 1 (a sure edge cannot be "
            "learned about), or 'auto', not 1.",
        ),
    ],
)
def test_what_a_wrong_value_is_told(name, value, sentence):
    with pytest.raises(ValueError) as caught:
        RunConfig(**{name: value})
    assert str(caught.value) == sentence


class Longer(TrainConfig):
    """A few parameters more, one line each."""

    token_budget: Count | None = None
    waiting: Positive | Literal["auto"] = "auto"
    widths: Annotated[tuple[Count, ...], Field(strict=False, description="a list of whole numbers of 1 or more")] = (1,)
    table: Annotated[str, OneOf({"long": 1, "none": 2})] = "long"
    folder: str = "here"
    note: str | None = None
    steady: bool = False
    tracker: Literal["first", "second"] | None = None


def test_a_parameter_is_added_by_one_line():
    given = {"token_budget": 5, "waiting": 2, "seed": 1, "widths": [3, 4], "table": "none"}
    assert Longer.from_parameters(given) == Longer(token_budget=5, waiting=2.0, seed=1, widths=(3, 4), table="none")
    for name, value, sentence in (
        ("token_budget", 0, "token_budget has to be a whole number of 1 or more, or None, not 0."),
        ("waiting", "long", "waiting has to be a finite number above 0, or 'auto', not 'long'."),
        ("seed", -1, "seed has to be a whole number of 0 or more, not -1."),
        ("widths", [1, 0], "widths has to be a list of whole numbers of 1 or more, not [1, 0]."),
        ("table", "lon", "table 'lon' is not known; did you mean 'long'? Known: long, none."),
        ("tracker", "frist", "tracker 'frist' is not known; did you mean 'first'? Known: None, first, second."),
        ("sede", 1, f"There is no parameter 'sede'; {nearest('sede', Longer.model_fields)}"),
    ):
        with pytest.raises(ValueError) as caught:
            Longer(**{name: value})
        assert str(caught.value) == sentence


def test_a_parameter_without_a_default_has_to_be_given():
    class Needed(Parameters):
        names: list[str]

    assert Needed(names=["a"]).names == ["a"]
    with pytest.raises(ValueError, match=r"^names has to be given: a valid list\[str\]\.$"):
        Needed()
    with pytest.raises(ValueError, match=r"^names has to be a valid list\[str\], not \['a', 1\]\.$"):
        Needed(names=["a", 1])


def test_a_long_value_is_cut_in_the_sentence():
    with pytest.raises(ValueError, match=r"^seed has to be a whole number of 0 or more, not 'x+\.\.\.\.$") as caught:
        RunConfig(seed="x" * 10_000)
    assert len(str(caught.value)) < 150


# --- values that are written as texts


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("seed", text, 4) for text in ("4", " 4 ", "+4", "4\n")),
        *(("waiting", text, 1000.0) for text in ("1e3", "1000", "1000.0", "1E+3", "+1e3", "1000.")),
        *(("learning_rate", text, 0.001) for text in ("1e-3", "0.001", ".001", "1.0e-3", "10e-4")),
        ("waiting", "auto", "auto"),
        ("num_iterations", "auto", "auto"),
        ("num_iterations", "12", 12),
        *(("steady", text, True) for text in ("true", "True", "TRUE", " true")),
        *(("steady", text, False) for text in ("false", "False", "FALSE")),
        *(("token_budget", text, None) for text in ("None", "none", "null", "NULL")),
        ("token_budget", "1000", 1000),
        ("tracker", "None", None),
        ("tracker", "second", "second"),
        *(("widths", text, (1, 2)) for text in ("[1, 2]", "[1,2]", "(1, 2)", "1, 2")),
        ("table", "none", "none"),
        # A text stays what it is.
        *((name, text, text) for name in ("folder", "note") for text in ("4", "1e-3", "true", "[1, 2]", " x ", "模型")),
        *(("folder", text, text) for text in ("None", "null")),
    ],
)
def test_a_text_is_read_where_the_parameter_takes_none(name, text, value):
    made = Longer(**{name: text})
    assert getattr(made, name) == value
    assert type(getattr(made, name)) is type(value)
    assert made == Longer(**{name: value}) == Longer.from_parameters({name: text})


@pytest.mark.parametrize("text", ["None", "null", "NONE"])
def test_a_text_for_none_leaves_a_preset_s_value(text):
    smoke = RunConfig.from_parameters({"preset": "smoke"})
    for name in ("num_iterations", "learning_rate", "resume", "team", "token_budget", "log_with"):
        assert RunConfig.from_parameters({"preset": "smoke", name: text}) == smoke
    assert RunConfig.from_parameters({"preset": text}) == RunConfig()
    assert RunConfig.from_parameters({"recordings": text}).recordings == text
    with pytest.raises(ValueError, match=r"^second_agent_llm .* may be a name or nothing: write null in JSON"):
        RunConfig.from_parameters({"second_agent_llm": text})


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields))
def test_every_value_of_a_run_may_be_written_as_a_text(name):
    """What Python, JSON and YAML write of a value is read as the value."""
    value = getattr(RunConfig(), name)
    for text in {str(value), json.dumps(value) if not isinstance(value, str) else value}:
        if name == "second_agent_llm":
            with pytest.raises(ValueError, match="may be a name or nothing"):
                RunConfig(**{name: text})
        else:
            assert RunConfig(**{name: text}) == RunConfig()


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "1+2j", "x(1)", "1or 2", "\\d", "\ud800", "\0", "{'a': 1}"])
def test_a_text_that_nothing_reads_is_one_sentence(text, recwarn):
    for name in ("seed", "learning_rate", "steady", "num_iterations", "widths"):
        with pytest.raises(ValueError, match=f"^{name} has to be ") as caught:
            Longer(**{name: text})
        assert_one_sentence(caught.value, name)
    # Others may be of earlier tests: an unclosed file is found when memory is cleaned up.
    assert [warning for warning in recwarn.list if issubclass(warning.category, SyntaxWarning)] == []


def test_texts_of_a_notebook_and_of_a_file_are_read(tmp_path):
    """papermill's YAML leaves 1e-3 and None as texts, its -r everything."""
    injected = {"learning_rate": "1e-3", "num_iterations": "None", "standardize": "false", "seed": "3"}
    expected = RunConfig(learning_rate=1e-3, standardize=False, seed=3)
    assert RunConfig.from_notebook(run_notebook("seed = 0\nnum_iterations = 5", injected)) == expected
    (tmp_path / "run.json").write_text(json.dumps(injected))
    assert RunConfig.from_json(tmp_path / "run.json") == expected


def test_changes_of_a_copy_are_checked():
    config = RunConfig(seed=3)
    assert config.replace(num_iterations="7") == RunConfig(seed=3, num_iterations=7)
    with pytest.raises(ValueError, match=r"^seed has to be a whole number of 0 or more, not -1\.$"):
        config.replace(seed=-1)
    with pytest.raises(ValueError, match="adversary 'asked' needs a prompt"):
        config.replace(adversary="asked")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4
    assert pickle.loads(pickle.dumps(config)) == config
    assert len({config, RunConfig(seed=3)}) == 1


def test_the_trackers_are_those_that_accelerate_knows():
    assert set(get_args(Tracker)) == {tracker.value for tracker in LoggerType} - {"all"}


@pytest.mark.parametrize("name", sorted(TrainConfig.model_fields))
def test_the_training_part_alone_finds_the_same_mistakes(name):
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=name):
            TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"estimator": "leave_one_out", "graphs_per_question": 1}, ["leave_one_out", "graphs_per_question"]),
        ({"preset": "paper", "estimator": "leave_one_out"}, ["leave_one_out", "graphs_per_question"]),
        ({"tune": "lora", "edge_policy": "static"}, ["tune 'lora'", "edge_policy"]),
        ({"tune": "full", "head": "agent_aware"}, ["tune 'full'", "head"]),
        ({"adversary": "asked", "agent_mode": "options"}, ["'asked'", "agent_mode"]),
        ({"adversary": "colluding", "agent_mode": "text"}, ["'colluding'", "agent_mode"]),
        ({"data_source": "recordings", "agent_mode": "text"}, ["agent_mode 'text'", "data_source"]),
        ({"data_source": "recordings", "dataset": "sample"}, ["dataset 'sample'", "data_source"]),
        ({"team": "two_models"}, ["two_models", "second_agent_llm"]),
        ({"team": "two_models", "agent_llm": "a/b", "second_agent_llm": "a/b"}, ["two_models", "second_agent_llm"]),
        ({"second_agent_llm": "a/b"}, ["two_models", "second_agent_llm"]),
        (
            {"team": "adversarial", "num_truthful": 0, "num_adversarial": 0},
            ["no agents", "num_truthful", "num_adversarial"],
        ),
    ],
)
def test_values_that_do_not_go_together(parameters, names):
    with pytest.raises(ValueError) as caught:
        RunConfig.from_parameters(parameters)
    for name in names:
        assert_one_sentence(caught.value, name)


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_iterations": 1, "batch_size": 1, "graphs_per_question": 2},
        {"learning_rate": 1, "sparsity": 0, "temperature": 1e-9},
        {"team": "adversarial", "num_truthful": 0, "num_adversarial": 1},
        {"team": "adversarial", "num_truthful": 1, "num_adversarial": 0},
        {"initial_probability": 1e-6},
        {"train_limit": 1, "eval_limit": "all", "seed": 0},
        {"estimator": "reinforce", "graphs_per_question": 1},
        {"team": "two_models", "second_agent_llm": "a/b"},
        {"num_iterations": "auto", "initial_probability": "auto", "early_stopping": 0.5},
    ],
)
def test_values_at_the_edge_are_right(parameters):
    assert {name: getattr(RunConfig(**parameters), name) for name in parameters} == parameters


# --- names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_iteration", "num_iterations"),
        ("learningrate", "learning_rate"),
        ("Seed", "seed"),
        ("eval_limt", "eval_limit"),
        ("agent_lm", "agent_llm"),
    ],
)
def test_an_unknown_parameter_names_the_nearest_one(name, meant):
    with pytest.raises(ValueError, match=f"^There is no parameter '{name}'; did you mean '{meant}'") as caught:
        RunConfig.from_parameters({name: None})
    assert all(known in str(caught.value) for known in RunConfig.model_fields)


def test_nearest_of_nothing_like_it_only_lists():
    assert nearest("zzz", {"b", "a"}) == "Known: a, b."
    assert nearest("aa", ["b", "a"]) == "did you mean 'a'? Known: a, b."
    with pytest.raises(ValueError, match=r"^There is no preset 'smke'; did you mean 'smoke'\? Known: .*laptop"):
        RunConfig.from_parameters({"preset": "smke"})


# --- presets


def test_every_preset_is_a_value_of_the_parameter():
    for preset in PRESETS:
        assert RunConfig(preset=preset).preset == preset
    with pytest.raises(ValueError, match=f"Known: {', '.join(sorted(PRESETS))}\\.$"):
        RunConfig(preset="none of them")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_defaults_but_for_what_it_says(preset):
    made = RunConfig.from_parameters({"preset": preset})
    assert made.to_dict() == RunConfig().to_dict() | PRESETS[preset] | {"preset": preset}


@pytest.mark.parametrize("preset", PRESETS)
def test_given_values_override_the_preset_and_none_leaves_it(preset):
    plain = RunConfig.from_parameters({"preset": preset}).to_dict()
    nothing = dict.fromkeys(plain) | {"preset": preset}
    assert RunConfig.from_parameters(nothing).to_dict() == plain
    given = {"num_iterations": 7, "eval_limit": 9, "temperature": 0.7, "standardize": False, "sparsity": 0}
    assert RunConfig.from_parameters(nothing | given).to_dict() == plain | given


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_a_record_give_the_run_back(preset):
    made = RunConfig.from_parameters({"preset": preset, "seed": 3, "num_iterations": 5})
    assert RunConfig.from_parameters(json.loads(json.dumps(made.to_dict()))) == made


def test_the_default_preset_is_laptop():
    assert RunConfig.from_parameters({}) == RunConfig() == RunConfig.from_parameters({"preset": "laptop"})


@pytest.mark.parametrize(("num_questions", "steps"), [(1, 1), (4, 1), (7, 1), (8, 2), (285, 71)])
def test_auto_is_one_pass_over_the_questions(num_questions, steps):
    """Never more than one, since a question is not asked about twice; but at least one step."""
    assert TrainConfig(num_iterations="auto", batch_size=4).steps(num_questions) == steps
    assert TrainConfig(num_iterations=9, batch_size=4).steps(num_questions) == 9


def test_the_preset_paper_is_the_published_recipe():
    """The column "Adversarial (MMLU)" of the published settings, and what the released code does there."""
    paper = RunConfig.from_parameters({"preset": "paper"})
    assert (paper.dataset, paper.team, paper.num_truthful, paper.num_adversarial) == ("mmlu", "adversarial", 8, 8)
    assert (paper.num_iterations, paper.batch_size, paper.graphs_per_question) == (200, 4, 1)
    assert (paper.learning_rate, paper.sparsity, paper.initial_probability) == (1e-4, 0, 0.5)
    assert (paper.temperature, paper.eval_limit) == (0.2, 1000)
    assert (paper.train_split, paper.eval_split) == ("dev", "val")
    assert (paper.agent_llm, paper.edge_llm) == ("google/gemma-7b-it", "google/gemma-2b")
    assert (paper.estimator, paper.order, paper.decide) == ("reinforce", "fixed", "all")
    assert (paper.optimizer, paper.schedule, paper.early_stopping) == ("adam", "constant", 0)
    assert (paper.readout, paper.head) == ("last_hidden", "per_edge")
    assert (paper.adversary, paper.standardize, paper.head_init) == ("constant", False, "default")


# --- notebooks


def run_notebook(defaults, injected):
    """The namespace of a notebook after its parameters cell and the cell that papermill adds."""
    namespace = {"__name__": "__main__", "history": [1], "plt": object()}
    cells = ["import torch", defaults]
    if injected is not None:
        cells.append(PythonTranslator.codify(injected, "Parameters"))
    for cell in cells[1:]:
        exec(cell, namespace)
    return namespace | {"In": ["", *cells, "RunConfig.from_notebook(globals())"]}


DEFAULTS = "preset = 'smoke'\ndataset = 'mmlu'\nnum_iterations = None\nseed = 0\ntrain_limit = 5"


def test_the_parameters_cell_is_read():
    made = RunConfig.from_notebook(run_notebook(DEFAULTS, None))
    assert made == RunConfig(**PRESETS["smoke"] | {"preset": "smoke", "train_limit": 5})


def test_injected_parameters_override_the_cell_also_those_that_it_does_not_have():
    injected = {"num_iterations": 3, "seed": 2, "temperature": 0.5, "team": "languages", "standardize": False}
    made = RunConfig.from_notebook(run_notebook(DEFAULTS, injected))
    assert made == RunConfig(**PRESETS["smoke"] | {"preset": "smoke", "train_limit": 5} | injected)


@pytest.mark.parametrize("injected", [{"num_iteration": 3}, {"seed": 1, "num_iteration": None}])
def test_an_injected_name_that_does_not_exist_is_an_error(injected):
    with pytest.raises(ValueError, match="no parameter 'num_iteration'; did you mean 'num_iterations'"):
        RunConfig.from_notebook(run_notebook(DEFAULTS, injected))


def test_a_wrong_injected_value_is_an_error():
    with pytest.raises(ValueError, match=r"^seed has to be a whole number of 0 or more, not 'two'\.$"):
        RunConfig.from_notebook(run_notebook(DEFAULTS, {"seed": "two"}))


@pytest.mark.parametrize("kind", [Parameters, RunConfig])
def test_a_notebook_s_own_parameters_stand_beside_those_of_a_run(kind):
    own = ("run", "sparsity", "threshold")
    cell = "run = 'folder'\nthreshold = 0.5\nsparsity = 0.9"
    made = kind.from_notebook(run_notebook(cell, {"threshold": 0.25, "sparsity": -1}), besides=own)
    assert made == kind()  # a name in `besides` is never read, even where a run has it
    with pytest.raises(ValueError, match=r"no parameter 'treshold'; did you mean 'threshold'\? Known: .*run"):
        kind.from_notebook(run_notebook(cell, {"treshold": 0.25}), besides=own)


def test_a_notebook_that_is_no_run_refuses_a_run_s_parameters():
    with pytest.raises(ValueError, match=r"no parameter 'seed'; Known: results\."):
        Parameters.from_notebook(run_notebook("results = 'folder'", {"seed": 1}), besides=("results",))


def test_other_names_of_a_notebook_are_its_own_business():
    assert RunConfig.from_notebook({"num_iteration": 3, "graph": object(), "In": ["x = 1"]}) == RunConfig()
    assert RunConfig.from_notebook({}) == RunConfig()


# --- files


def test_parameters_from_a_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"preset": "paper", "seed": 4, "agent_llm": "模型"}', encoding="utf-8")
    assert RunConfig.from_json(path) == RunConfig.from_parameters({"preset": "paper", "seed": 4, "agent_llm": "模型"})
    assert RunConfig.from_json(str(path)).seed == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{'seed': 1}", r"run\.json is not valid JSON \(.*\)\.$"),
        (b"", r"run\.json is not valid JSON \(.*\)\.$"),
        ('{"seed": "\u00e9"}'.encode("latin-1"), r"run\.json is not valid JSON \(.*\)\.$"),
        (b"[1]", r"run\.json has to hold one JSON object of parameters\.$"),
        (b'{"sede": 1}', "^There is no parameter 'sede'; did you mean 'seed'"),
        (b'{"seed": -1}', "^seed has to be"),
        (b'{"learning_rate": NaN}', "^learning_rate has to be"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, message):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig.from_json(tmp_path / "run.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*run\.json: give a JSON file"):
        RunConfig.from_json(tmp_path / "run.json")


# --- paths


def test_relative_paths_start_at_the_projects_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_root() == ROOT
    assert resolve_path("results/runs") == ROOT / "results" / "runs"
    assert resolve_path(Path("data")) == ROOT / "data"
    assert resolve_path(tmp_path / "runs") == tmp_path / "runs"
    assert resolve_path("~/runs") == Path.home() / "runs"


def test_without_a_checkout_paths_start_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "dynagent" / "runs" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    assert resolve_path("runs") == tmp_path / "runs"
