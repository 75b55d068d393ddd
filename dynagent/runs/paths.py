"""Where a run's files are: relative paths start at the project's root."""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """The checkout that this package is installed from, else the working directory."""
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def resolve_path(path: str | Path) -> Path:
    """A path that starts at the project's root unless it is absolute."""
    return project_root() / Path(path).expanduser()


def readable(path: Path) -> str:
    """A path as a person would write it: from the project's root where it lies inside."""
    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
