"""Progress bars: a terminal's where there is no kernel, one display in a notebook, silence on request."""

import io
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tqdm import tqdm

from dynagent.progress import progress


class Screen:
    """What a notebook would show: the texts of each display, in order."""

    def __init__(self):
        self.displays: list[list[str]] = []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        texts = [data["text/plain"]]
        self.displays.append(texts)

        def update(data, *, raw):
            assert raw
            texts.append(data["text/plain"])

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
    return pretend_ipython(monkeypatch, SimpleNamespace(kernel=object()))


def test_outside_ipython_it_is_a_plain_bar(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    output = io.StringIO()
    bar = progress(range(3), desc="counting", file=output)
    assert type(bar) is tqdm
    assert list(bar) == [0, 1, 2]
    assert "counting: 100%" in output.getvalue()
    assert "3/3" in output.getvalue()


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=None)])
def test_ipython_without_a_kernel_is_a_terminal(monkeypatch, shell):
    screen = pretend_ipython(monkeypatch, shell)
    bar = progress(range(3), file=io.StringIO())
    assert type(bar) is tqdm
    assert list(bar) == [0, 1, 2]
    assert screen.displays == []


def test_a_notebook_shows_one_display_that_is_rewritten(screen):
    assert list(progress(range(5), desc="counting", mininterval=0, miniters=1)) == [0, 1, 2, 3, 4]
    (texts,) = screen.displays
    assert texts[0].startswith("counting:   0%")
    counts = [re.search(r"\d/5", text).group() for text in texts]
    assert counts == ["0/5", "1/5", "2/5", "3/5", "4/5", "5/5", "5/5"]


def test_a_notebooks_bar_ends_in_its_final_state(screen, capsys):
    with progress(total=10, desc="asking", unit="call", mininterval=1e9) as bar:
        for _ in range(5):
            bar.update(2)
    bar.close()  # a second time changes nothing
    (texts,) = screen.displays
    assert len(texts) == 2  # before the first call and after the last
    assert "10/10" in texts[-1]
    assert "call" in texts[-1]
    assert capsys.readouterr() == ("", "")  # nothing beside the display


def test_each_notebook_bar_has_a_display_of_its_own(screen):
    for name in ("one", "two"):
        list(progress(range(2), desc=name))
    assert [texts[-1].split(":")[0] for texts in screen.displays] == ["one", "two"]


def test_a_disabled_bar_shows_nothing(screen, capsys):
    assert list(progress(range(3), disable=True)) == [0, 1, 2]
    with progress(total=3, disable=True) as bar:
        bar.update(3)
        bar.set_postfix_str("utility 0.25", refresh=False)
    assert screen.displays == []
    assert capsys.readouterr() == ("", "")
