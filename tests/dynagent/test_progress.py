"""Progress bars: a line in a terminal, one display in a notebook that is watched, else a log; silence on request."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from tqdm import tqdm

from dynagent.progress import progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def not_disabled(monkeypatch):
    """Bars are there, also where whoever runs the tests wants none."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Screen:
    """What a notebook would show: the texts of each display, in order."""

    def __init__(self):
        self.displays: list[list[str]] = []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        texts = [data.get("text/plain", "")]
        self.displays.append(texts)

        def update(data, *, raw):
            assert raw
            texts.append(data.get("text/plain", ""))

        return SimpleNamespace(update=update)


def pretend_ipython(monkeypatch, shell) -> Screen:
    screen = Screen()
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: shell
    package.display = display
    display.display = screen.display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return screen


@pytest.fixture
def screen(monkeypatch) -> Screen:
    """Of a notebook's kernel."""
    kernel = SimpleNamespace(get_parent=lambda: {"content": {"allow_stdin": True}})
    return pretend_ipython(monkeypatch, SimpleNamespace(kernel=kernel))


def test_outside_ipython_it_is_a_plain_bar(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    output = Terminal()
    bar = progress(range(3), desc="counting", file=output)
    assert type(bar) is tqdm
    assert list(bar) == [0, 1, 2]
    assert "counting: 100%" in output.getvalue()
    assert "3/3" in output.getvalue()


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=None)])
def test_ipython_without_a_kernel_is_a_terminal(monkeypatch, shell):
    screen = pretend_ipython(monkeypatch, shell)
    bar = progress(range(3), file=Terminal())
    assert type(bar) is tqdm
    assert list(bar) == [0, 1, 2]
    assert screen.displays == []


def test_a_notebook_shows_one_display_that_is_rewritten(screen):
    assert list(progress(range(5), desc="counting", mininterval=0, miniters=1)) == [0, 1, 2, 3, 4]
    (texts,) = screen.displays
    assert texts[0].startswith("counting:   0%")
    counts = [re.search(r"\d/5", text).group() for text in texts[:-1]]
    assert counts == ["0/5", "1/5", "2/5", "3/5", "4/5", "5/5"]
    assert texts[-1] == ""


def test_a_notebooks_bar_is_gone_at_the_end(screen, capsys):
    with progress(total=10, desc="asking", unit="call", mininterval=1e9) as bar:
        for _ in range(5):
            bar.update(2)
    bar.close()  # a second time changes nothing
    (texts,) = screen.displays
    assert texts == ["asking:   0%|          | 0/10 [00:00<?, ?call/s]", ""]
    assert capsys.readouterr() == ("", "")  # nothing beside the display


def test_each_notebook_bar_has_a_display_of_its_own(screen):
    for name in ("one", "two"):
        list(progress(range(2), desc=name))
    assert [texts[0].split(":")[0] for texts in screen.displays] == ["one", "two"]


def test_a_disabled_bar_shows_nothing(screen, capsys):
    assert list(progress(range(3), disable=True)) == [0, 1, 2]
    with progress(total=3, disable=True) as bar:
        bar.update(3)
        bar.set_postfix_str("utility 0.25", refresh=False)
    assert screen.displays == []
    assert capsys.readouterr() == ("", "")


# --- a log, where nobody watches


class Clock:
    """Seconds that pass as the test says."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)


def lines_of(file: io.StringIO) -> list[str]:
    return file.getvalue().strip("\n").split("\n")


def test_a_log_has_lines_at_intervals_with_a_rate_and_the_time_left(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    for _ in progress(range(40), desc="asking", unit="call", file=file):
        clock.now += 0.5
    *lines, last = lines_of(file)
    assert lines[0] == "asking:  15% 6/40 [00:03<00:17,  2.00call/s]"
    counts = [int(re.search(r"(\d+)/40", line)[1]) for line in lines]
    assert counts == [6, 12, 18, 24, 30, 36]
    assert last == "asking: 100% 40/40 [00:20<00:00,  2.00call/s]"
    assert not set(file.getvalue()) & set("\r\x1b█|")


def test_a_log_has_nothing_of_a_short_step(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    bar = progress(range(20), file=file)
    for _ in bar:
        clock.now += 0.1
    bar.set_description("done")  # as the hub's downloads do
    assert file.getvalue() == ""


def test_a_log_names_a_step_without_parts_as_it_begins(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    with progress(total=1, desc="converting (20 to 90 s)", unit="model", file=file) as bar:
        assert lines_of(file) == ["converting (20 to 90 s):   0% 0/1 [00:00<?, ?model/s]"]
        clock.now += 30
        bar.update()
    assert lines_of(file)[-1] == "converting (20 to 90 s): 100% 1/1 [00:30<00:00, 30.00s/model]"


def test_steps_within_a_step_have_lines_of_their_own(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    for _ in progress(range(3), desc="outer", file=file):
        for _ in progress(range(4), desc="inner", file=file):
            clock.now += 2
    shown = [line.split(" [")[0] for line in lines_of(file) if line]
    inner = ["inner:  50% 2/4", "inner: 100% 4/4", "inner: 100% 4/4"]
    outer = ["outer:  33% 1/3", "outer:  67% 2/3", "outer: 100% 3/3"]
    assert shown == [*inner, outer[0], *inner, outer[1], *inner, outer[2], outer[2]]
    assert "\x1b" not in file.getvalue()


# --- in real kernels


NOTEBOOK = """
import time
from dynagent.progress import progress

print("before")
for _ in progress(range(20), desc="a long step", unit="part"):
    time.sleep(0.25)
for _ in progress(range(3), desc="a short step"):
    pass
print("after")
"""


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "long.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)], metadata=kernel), path)
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["nbconvert", "--to", "notebook", "--execute", "--output", "out.ipynb", "long.ipynb"],
        ["papermill", "long.ipynb", "out.ipynb"],
        ["papermill", "--no-progress-bar", "--log-output", "long.ipynb", "out.ipynb"],
    ],
    ids=["nbconvert", "papermill", "papermill with its log"],
)
def test_executed_notebooks_keep_no_bar_and_their_log_has_its_lines(command, notebook):
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}
    environment.pop("PYTEST_CURRENT_TEST", None)
    options = {"cwd": notebook.parent, "env": environment, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-m", *command], **options)
    (cell,) = nbformat.read(notebook.with_name("out.ipynb"), 4).cells
    assert {output.get("name") for output in cell.outputs} == {"stdout"}
    assert "".join(output.text for output in cell.outputs) == "before\nafter\n"
    lines = [line for line in done.stderr.splitlines() if line.startswith("a ")]
    rate = r"\[\d\d:\d\d<\d\d:\d\d, +[\d.]+(part/s|s/part)\]"
    assert re.fullmatch(rf"a long step: +\d+% +\d+/20 {rate}", lines[0]), done.stderr
    assert re.fullmatch(rf"a long step: 100% 20/20 {rate}", lines[-1]), done.stderr
    assert 2 <= len(lines) <= 8  # a line a part, as of a bar that is drawn over itself, would be 20


def test_a_notebook_that_is_watched_shows_the_bar_and_empties_it(notebook):
    """As JupyterLab asks: its requests allow questions to the user."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        shown = []

        def take(message):
            if message["msg_type"] in ("display_data", "update_display_data"):
                shown.append(message["content"]["data"])

        source = NOTEBOOK.replace("0.25", "0.1")
        reply = client.execute_interactive(source, allow_stdin=True, output_hook=take, timeout=60)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    bars = [data["text/plain"] for data in shown if data]
    assert bars[0].startswith("a long step:   0%")
    assert any(re.search(r" \d+/20 \[00:0\d<00:0\d, .*part/s\]", bar) for bar in bars)
    assert shown[-1] == {}
    assert sum(not data for data in shown) == 2  # one for each step


BAR = re.compile(r"\d+%\|[█▏▎▍▌▋▊▉#\s]*\||\d+/\d+ \[\d\d:\d\d<")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_committed_notebooks_hold_no_bars(path):
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert [text for text in texts if BAR.search(text)] == []
    assert [output for output in outputs if output.get("data") == {}] == []


def test_bars_are_found():
    assert BAR.search("asking: 100%|██████████| 990/990 [05:02<00:00, 30.52question/s]")
    assert BAR.search("asking:  40% 28/71 [00:12<00:18,  2.3it/s]")
