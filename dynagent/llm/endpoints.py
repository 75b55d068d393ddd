"""Names of language models behind a server: `openai:<base_url>#<model>`."""

from __future__ import annotations

import re

PREFIX = "openai:"
_NAME = re.compile(PREFIX + r"(https?://[^\s/?#@]+(?:/[^\s?#@]*)?)#(\S+)")


def is_served(name: str) -> bool:
    """Whether a language model is behind a server, by its name."""
    return name.startswith(PREFIX)


def endpoint(name: str) -> tuple[str, str]:
    """Base URL and model of a name.

    >>> endpoint("openai:http://localhost:8000/v1#org/model")
    ('http://localhost:8000/v1', 'org/model')

    Raises:
        ValueError: for any other name, and for a URL with a user, a password or a query, since names are on record. The
            sentence does not repeat the name.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(
            "A served language model is named openai:<base_url>#<model>, such as openai:http://localhost:8000/v1#mine, "
            "with no user, password or query in the URL: a key comes from the environment."
        )
    return found[1].rstrip("/"), found[2]
