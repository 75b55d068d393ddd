"""The notebooks in a real JupyterLab, in a headless Chromium that Playwright drives: `make test-browser`.

Screenshots are left in the folder that DYNAGENT_SCREENSHOTS names, by default a temporary one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Cells are all in the page, not only those in view; nothing asks for news; images are drawn at once.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
MINUTES = 60_000  # milliseconds
SAYS = "text => document.querySelector('.explore-left-message').innerText.includes(text)"

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def new_page():
    """A function that gives a new page of the browser, and the list of what goes wrong in it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: run `make test-browser`")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=executable, args=flags)

        def new():
            page = browser.new_page(viewport={"width": 1400, "height": 1200})
            page.set_default_timeout(MINUTES)
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
            return page, wrong

        yield new
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """Addresses, with a place for the path, of a JupyterLab on copies of the notebooks, with settings of its own."""
    home = tmp_path_factory.mktemp("jupyter")
    work = home / "work"
    shutil.copytree(ROOT / "notebooks", work / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name, values in SETTINGS.items():
        path = home / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    env = os.environ | {name: str(home / folder) for name, folder in folders.items()} | {"JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += [f"--ServerApp.root_dir={work}", "--LabApp.extension_manager=readonly"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not (found := [f for f in (home / "runtime").glob("jpserver-*.json") if f.read_text().endswith("}")]):
                ended = server.poll() is not None or time.monotonic() > deadline
                assert not ended, (home / "log").read_text()[-3000:]
                time.sleep(0.2)
            about = json.loads(found[0].read_text())
            yield f"{about['url']}{{}}?token={about['token']}"
        finally:
            server.terminate()
            try:
                server.wait(timeout=60)
            finally:
                server.kill()


class Notebook:
    """A notebook that is open in the page."""

    def __init__(self, page, lab: str, name: str) -> None:
        self.page, self.name, self.lab = page, name, lab
        page.goto(lab.format("lab/tree/notebooks/" + name) + "&reset")
        self.cells = page.locator(".jp-Notebook .jp-Cell")
        self.code = page.locator(".jp-Notebook .jp-CodeCell")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        deadline = time.monotonic() + 60
        while not any(session["kernel"]["execution_state"] == "idle" for session in self.sessions()):
            assert time.monotonic() < deadline, "no kernel has started"
            page.wait_for_timeout(200)
        self.kernel("Idle")

    def sessions(self) -> list[dict[str, Any]]:
        """What runs on the server: this notebook alone."""
        return self.page.context.request.get(self.lab.format("api/sessions")).json()

    def kernel(self, state: str, timeout: int = 2 * MINUTES) -> None:
        """Wait for the state that the toolbar shows."""
        self.page.locator(f'.jp-Notebook-ExecutionIndicator[data-status="{state.lower()}"]').first.wait_for(
            timeout=timeout
        )

    def write(self, line: str, instead_of: str) -> None:
        """Replace a line of code, as somebody at the keyboard does."""
        self.page.locator(".jp-CodeCell .cm-line", has_text=instead_of).first.click()
        self.page.keyboard.press("Home")
        self.page.keyboard.press("Shift+End")
        self.page.keyboard.insert_text(line)

    def run_all(self, timeout: int) -> None:
        """From the menu; returns when no cell is waiting."""
        self.page.locator(".lm-MenuBar-item", has_text="Run").first.click()
        self.page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        waiting = self.page.locator(".jp-CodeCell .jp-InputPrompt", has_text="[*]")
        waiting.first.wait_for()
        deadline = time.monotonic() + timeout / 1000
        while waiting.count() and time.monotonic() < deadline:
            self.page.wait_for_timeout(500)
        assert waiting.count() == 0, f"{self.name} is still running"
        self.kernel("Idle")

    def faults(self) -> list[str]:
        """Errors and warnings in cells, and pictures that do not show."""
        found = self.page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()
        found += self.page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
        broken = "images => images.filter(i => !(i.complete && i.naturalWidth)).map(i => 'picture: ' + i.alt)"
        return found + self.page.locator(".jp-OutputArea img").evaluate_all(broken)

    def scroll_to(self, cell: int) -> None:
        self.cells.nth(cell).evaluate("cell => cell.scrollIntoView()")
        self.page.wait_for_timeout(30)

    def prompts(self) -> list[str]:
        return self.code.locator(".jp-InputPrompt").all_inner_texts()

    def close(self) -> None:
        """Leave the page, and end its kernel."""
        self.page.goto("about:blank")
        for session in self.sessions():
            self.page.context.request.delete(self.lab.format(f"api/sessions/{session['id']}"))
        self.page.close()

    def screenshot(self, name: str, folder: Path) -> None:
        folder = Path(os.environ.get("DYNAGENT_SCREENSHOTS", folder))
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens(path, lab, new_page, tmp_path):
    """All its cells and pictures are there, and neither a cell nor the console speaks of an error."""
    page, wrong = new_page()
    notebook = Notebook(page, lab, path.name)
    cells = nbformat.read(path, 4).cells
    page.wait_for_function("n => document.querySelectorAll('.jp-Notebook .jp-Cell').length === n", arg=len(cells))
    for i in range(len(cells)):  # pictures are loaded when they come into view
        notebook.scroll_to(i)
    images = sum("image/png" in output.get("data", {}) for c in cells for output in c.get("outputs", []))
    assert page.locator(".jp-OutputArea img").count() >= images
    assert notebook.faults() == []
    notebook.screenshot(f"{path.stem}-end", tmp_path)
    notebook.scroll_to(0)
    notebook.screenshot(path.stem, tmp_path)
    notebook.close()
    assert wrong == []


def test_train_runs_through_the_interface(lab, new_page, tmp_path):
    page, wrong = new_page()
    notebook = Notebook(page, lab, "train.ipynb")
    notebook.write('preset = "smoke"', instead_of='preset: str = "replay"')
    notebook.write(f'output_dir = "{tmp_path / "runs"}"', instead_of="output_dir = None")
    notebook.run_all(timeout=10 * MINUTES)
    assert notebook.prompts() == [f"[{i}]:" for i in range(1, notebook.code.count() + 1)]
    assert notebook.faults() == []
    (record,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["parameters"]["preset"] == "smoke"
    notebook.screenshot("train-run", tmp_path)
    notebook.close()
    assert wrong == []


def test_explore_answers_a_slider_and_a_typed_question(lab, new_page, tmp_path):
    page, wrong = new_page()
    notebook = Notebook(page, lab, "explore.ipynb")
    notebook.run_all(timeout=10 * MINUTES)
    assert notebook.prompts() == [f"[{i}]:" for i in range(1, notebook.code.count() + 1)]
    message, figure = page.locator(".explore-left-message"), page.locator(".explore-left-figure")
    message.scroll_into_view_if_needed()
    assert "agents are asked; their vote:" in message.inner_text()
    notebook.screenshot("explore-panel", tmp_path)

    picture = figure.get_attribute("src")
    handle = page.locator(".widget-slider", has_text="threshold").locator(".noUi-handle")
    handle.click()
    page.keyboard.press("End")  # no edge has a probability of 1
    page.wait_for_function(SAYS, arg="0 of 8 agents are asked; their vote: none")
    page.wait_for_function("old => document.querySelector('.explore-left-figure').src !== old", arg=picture)
    handle.click()
    page.keyboard.press("Home")
    page.wait_for_function(SAYS, arg="8 of 8 agents are asked")

    box = page.locator(".explore-left-question textarea")
    box.fill("How many legs does a spider have?\nTwo\nFour\nSix\nEight")
    page.locator(".explore-left-ask").click()
    page.wait_for_function(SAYS, arg="the right answer: not known")
    notebook.screenshot("explore-typed", tmp_path)
    box.fill("no options")
    page.locator(".explore-left-ask").click()
    page.wait_for_function(SAYS, arg="Not shown")
    assert notebook.faults() == []
    notebook.close()
    assert wrong == []
