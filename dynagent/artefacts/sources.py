"""Where data and weights come from: a pinned package, the hub or a folder, each known by its hash.

An alias in `PINNED` means one artefact, on whatever machine; a hub id or a folder is another model with
another identity. Nothing falls back to something else silently.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from dynagent.artefacts.downloads import Artefact, download, preparing, write_file
from dynagent.parameters import nearest
from dynagent.progress import progress

log = logging.getLogger(__name__)

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
_MEMO_FROM = 16 << 20  # bytes; a smaller file is hashed each time
_MARK = ".converted"  # holds the hash of a converted folder's content

# alias -> what it means; the parts of an artefact are (requirement, member of its wheel)
PINNED = {
    name: Artefact(**fields | {"parts": tuple(map(tuple, fields["parts"]))})
    for name, fields in json.loads(Path(__file__).with_name("pinned.json").read_text()).items()
}


@dataclass(frozen=True)
class Source:
    """What was used and where it came from, for run records.

    `location` is a package and its file, a hub id, a path as the user wrote it, or a server's base URL; `revision` is
    the resolved commit of a hub repository, or what a server says of its model. `sha256` identifies the content: a
    pinned artefact by the file's hash, several files by `combined_sha256`; of what a server has, it is not verifiable.
    """

    name: str
    kind: Literal["package", "hub", "folder", "own", "builtin", "record", "served"]
    location: str
    revision: str | None
    sha256: str
    licence: str

    def to_dict(self) -> dict[str, str | None]:
        """The fields as a plain dict, ready for JSON."""
        return asdict(self)


def cache_dir() -> Path:
    """The folder for what is fetched or converted: DYNAGENT_CACHE, else dynagent in the user's cache."""
    if folder := os.environ.get("DYNAGENT_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dynagent"


def computed_by() -> str:
    """The packages whose versions can change what a model computes: the name of the folder that remembers it."""
    return "-".join(f"{name}{version(name).partition('+')[0]}" for name in ("torch", "transformers"))


def pinned_source(name: str) -> Source:
    """The `Source` of the pinned artefact `name`; ValueError where there is none of that name."""
    artefact = _artefact(name)
    return Source(name, "package", artefact.location, None, artefact.sha256, artefact.licence)


def fetch(name: str) -> Path:
    """Return the pinned file `name` in the cache, downloading it with pip where it is not there yet.

    It is checked against its pinned sha256 and has its final name only when whole; a download that was cut
    off goes on after its last finished part. Processes that want the same file download it once.

    Raises ConnectionError or FileNotFoundError if pip cannot get a package, OSError if the disk is full, and
    ValueError for an unknown name or for content that is not the pinned one.
    """
    artefact = _artefact(name)
    path = cache_dir() / f"{name}-{artefact.sha256[:12]}" / artefact.filename
    if not _is_pinned(path, artefact):
        with preparing(path.parent):
            if not _is_pinned(path, artefact):  # another process may have fetched it while this one waited
                if path.exists():
                    log.warning("%s is not the pinned file any more; it is fetched again", path)
                download(name, artefact, path)
    return path


def model_folder(name: str) -> tuple[str, Source]:
    """Return a Hugging Face folder with the weights and tokenizer of `name`, and where they came from.

    `name` is an alias in `PINNED` (converted once from GGUF to bfloat16 safetensors), an existing folder, or
    a hub id `org/name`. Weights are safetensors, no pickles.

    Raises ValueError for a name that is none of these or a folder that holds no model, and ConnectionError,
    PermissionError or FileNotFoundError if the hub or the package index does not give it.
    """
    aliases = [alias for alias, artefact in PINNED.items() if artefact.filename.endswith(".gguf")]
    if name in aliases:
        return str(_converted(name)), pinned_source(name)
    if os.path.isdir(name):
        folder = Path(name)
        return name, Source(name, "folder", name, None, model_sha256(folder), _licence(folder))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        folder = hub_snapshot(name, [*MODEL_FILES, "README.md"])
        return str(folder), Source(name, "hub", name, folder.name, model_sha256(folder), _licence(folder))
    raise ValueError(
        f"There is no model {name!r}: give an existing folder, a hub id such as org/name, or an alias; "
        f"{nearest(name.lower(), aliases)}"
    )


def check_model_name(name: str) -> None:
    """Raise what `model_folder` would for a name that can be no model, without fetching anything."""
    if name not in PINNED and (os.path.isdir(name) or "/" not in name):
        model_folder(name)


def hub_snapshot(name: str, patterns: Iterable[str], revision: str | None = None, repo_type: str = "model") -> Path:
    """Return a local folder, named by its commit, with the files of a hub repository that fit `patterns`.

    Patterns without a slash mean files at the top. Raises PermissionError, ValueError, FileNotFoundError or
    ConnectionError for a gated repository, a missing revision, a missing repository or a missing network.
    """
    from huggingface_hub import errors, snapshot_download

    patterns = list(patterns)
    below = None if any("/" in pattern for pattern in patterns) else ["*/*"]
    which: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": below, "tqdm_class": progress}
    try:
        folder = snapshot_download(name, repo_type=repo_type, revision=revision, **which)
    except Exception as error:  # what is raised without a network depends on the release of huggingface_hub
        for cause, kind, what in (
            (errors.GatedRepoError, PermissionError, "is gated: accept its terms, then log in with `hf auth login`"),
            (errors.RevisionNotFoundError, ValueError, f"has no revision {revision!r}: give a branch, tag or commit"),
            (errors.RepositoryNotFoundError, FileNotFoundError, "is no folder here and not on the hub: check the name"),
            (Exception, ConnectionError, "is out of reach on the hub: connect to the network, or name a folder"),
        ):
            if isinstance(error, cause):
                raise kind(f"{name} {what} ({type(error).__name__}).") from error
    if not any(True for pattern in patterns for _ in Path(folder).glob(pattern)):
        raise FileNotFoundError(f"{name} has none of {', '.join(patterns)} on the hub: name a folder instead.")
    return Path(folder)


def model_sha256(folder: Path) -> str:
    """The identity of a model folder: over the names and contents of its config, tokenizer and weights.

    Raises ValueError if the folder lacks config.json or safetensors weights.
    """
    files = {file.name: file for pattern in MODEL_FILES for file in folder.glob(pattern)}
    if "config.json" not in files:
        raise ValueError(f"{folder} is not a model folder: it has no config.json.")
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"{folder} has no *.safetensors weights: save the model with save_pretrained.")
    return combined_sha256({name: file_sha256(file) for name, file in files.items()})


def combined_sha256(digests: Mapping[str, str]) -> str:
    """One sha256 for several files, from their relative names and sha256 digests, sorted by name."""
    lines = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file; that of a big one is remembered in the cache until its size or times change."""
    stat = path.stat()
    # By inode: a moved file keeps its hash; a rewritten one has another ctime, even if its mtime is set back.
    key = f"{stat.st_dev}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    memo = cache_dir() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        return memo.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size >= _MEMO_FROM:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not correctness
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_file(memo, [digest.encode()])
    return digest


def _artefact(name: str) -> Artefact:
    if name not in PINNED:
        raise ValueError(f"Nothing is pinned as {name!r}; {nearest(name.lower(), PINNED)}")
    return PINNED[name]


def _is_pinned(path: Path, artefact: Artefact) -> bool:
    return path.is_file() and file_sha256(path) == artefact.sha256


def _converted(alias: str) -> Path:
    """The folder into which an alias's GGUF is converted, once for each major release of transformers."""
    major = version("transformers").split(".")[0]
    folder = cache_dir() / f"{alias}-{PINNED[alias].sha256[:12]}-transformers{major}"
    if _is_whole(folder):
        return folder
    gguf = fetch(alias)
    with preparing(folder):
        if not _is_whole(folder):
            unfinished = folder.with_name(f".{folder.name}")
            for stale in (unfinished, folder):  # what was cut off, or damaged
                shutil.rmtree(stale, ignore_errors=True)
            description = f"converting {alias} to safetensors, once (20 to 90 s)"
            with progress(total=1, desc=description, unit="model") as bar:
                _run_conversion(gguf, unfinished)
                bar.update()
            (unfinished / _MARK).write_text(model_sha256(unfinished))
            unfinished.rename(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    mark = folder / _MARK
    return mark.is_file() and mark.read_text() == model_sha256(folder)


def _run_conversion(gguf: Path, folder: Path) -> None:
    """Convert in a process of its own: all its memory comes back, its bars and warnings stay its own."""
    script = Path(__file__).with_name("conversion.py")
    quiet = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", str(script), str(gguf), str(folder)]  # -P: our names shadow nobody's
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, errors="replace")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"Converting {gguf.name} failed ({reason}): free memory or disk, or name a folder instead.")


def _licence(folder: Path) -> str:
    """The licence that the model card in `folder` states, else "unknown"."""
    card = folder / "README.md"
    found = card.is_file() and re.search(r"^license: *(\S+)", card.read_text(errors="replace"), re.M)
    return found[1] if found else "unknown"
