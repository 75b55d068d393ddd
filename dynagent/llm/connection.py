"""The way to a server: its key, proxies and certificates, each checked before the first call.

A server on this machine is reached without proxies, which could only lead away from it.
"""

from __future__ import annotations

import ipaddress
import os
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def key_from(variable: str) -> str | None:
    """The key in an environment variable, without the blanks and line ends around it.

    Raises:
        ValueError: naming the variable and not the key, where a header cannot hold it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"{variable} holds a blank, or a character that is not ASCII: no key does, so copy it anew into {variable}."
        )
    return key or None


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine.

    >>> [is_loopback(url) for url in ("http://localhost:1/v1", "http://[::1]/v1", "http://10.0.0.1/v1")]
    [True, True, False]
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_variable(url: str) -> str | None:
    """The environment variable whose proxy stands before a URL."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    return next((name for name in _variables(parts.scheme, "all") if os.environ.get(name)), None)


def make_client(openai: Any, url: str, **options: Any) -> Any:
    """A client of the package `openai` for a server's base URL.

    Raises:
        ValueError: naming the environment variable, for a proxy or a certificate that cannot be used.
    """
    if is_loopback(url) and url.startswith("http:"):
        return openai.OpenAI(base_url=url, http_client=openai.DefaultHttpxClient(trust_env=False), **options)
    for name in CERTIFICATES:
        path = os.environ.get(name)
        if path and not os.path.exists(path):
            raise ValueError(f"{name} names {path}, which is not there: correct {name}, or unset it.")
    # The client makes a connection to every proxy there is, also to those that this URL does not need.
    for scheme, proxy in getproxies().items():
        name = next((name for name in _variables(scheme) if os.environ.get(name)), f"the system's proxy for {scheme}")
        kind = proxy.partition("://")[0].lower() if "://" in proxy else "http"
        if scheme in ("http", "https", "all"):
            _check_proxy(name, kind)
    try:
        return openai.OpenAI(base_url=url, **options)
    except (ValueError, ImportError, OSError, openai.OpenAIError) as error:
        names = [name for name in (*_variables("http", "https", "all"), *CERTIFICATES) if os.environ.get(name)]
        where = f"see to {' and '.join(names)}" if names else "see to the URL"
        raise ValueError(f"No connection to {url} can be made ({type(error).__name__}): {where}.") from None


def _check_proxy(variable: str, kind: str) -> None:
    if kind in ("socks5", "socks5h") and find_spec("socksio") is None:
        raise ValueError(
            f"{variable} names a SOCKS proxy, which needs socksio: pip install socksio, or unset {variable} (NO_PROXY "
            "does not help, since the client is made for every proxy)."
        )
    if kind not in ("http", "https", "socks5", "socks5h"):
        raise ValueError(f"{variable} names a proxy of the kind {kind}://, not http or socks5: correct or unset it.")


def _variables(*schemes: str) -> list[str]:
    return [name for scheme in schemes for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")]
