"""Keys, proxies and certificates: what cannot be used is named before the first call."""

import pytest

from dynagent.llm.base import Request
from dynagent.llm.connection import is_loopback, key_from, proxy_variable
from dynagent.llm.served import ServedModel
from tests.support.servers import chat_reply, imitation, models_reply

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
REMOTE = "openai:https://203.0.113.7/v1#m"


@pytest.fixture(autouse=True)
def no_way_but_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    for name in (*PROXIES, *map(str.lower, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR", "DYNAGENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("key", ["key-123 ", "key-123\n", "\tkey-123\r\n", "key-123"])
def test_blanks_around_a_key_are_taken_off(key, monkeypatch):
    monkeypatch.setenv("DYNAGENT_API_KEY", key)
    assert key_from("DYNAGENT_API_KEY") == "key-123"


@pytest.mark.parametrize("key", ["schlüssel", "a key", "a\nkey", "ключ", "key\u200b", "k\x07y"])
def test_what_can_be_no_key_is_refused_by_the_name_of_its_variable(key, monkeypatch):
    monkeypatch.setenv("DYNAGENT_API_KEY", key)
    with pytest.raises(ValueError, match="DYNAGENT_API_KEY holds") as error:
        ServedModel(REMOTE)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "http://127.0.0.1:9"), ("ALL_PROXY", "socks5://127.0.0.1:9"), ("all_proxy", "socks://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem"),
    ],
)  # fmt: skip
def test_a_server_on_this_machine_needs_no_proxy_and_no_certificate(name, value, monkeypatch):
    monkeypatch.setenv(name, value)

    def answer(path, body):
        return (200, models_reply("m")) if path.endswith("models") else (200, chat_reply("B"))

    with imitation(answer) as server:
        assert ServedModel(server.name("m")).reply([Request("why?")])[0].text == "B"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY names a SOCKS proxy.*pip install socksio"),
        ("https_proxy", "socks5h://" + "u:secret" + "@h:9", "https_proxy names a SOCKS proxy"),
        ("ALL_PROXY", "socks://127.0.0.1:9", "ALL_PROXY names a proxy of the kind socks://"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY names a proxy of the kind ftp://"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem", "SSL_CERT_FILE names /nonexistent/ca.pem"),
        ("SSL_CERT_DIR", "/nonexistent", "SSL_CERT_DIR names /nonexistent"),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_named(name, value, sentence, monkeypatch):
    monkeypatch.setattr("dynagent.llm.connection.find_spec", lambda package: None)
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence) as error:
        ServedModel(REMOTE)
    assert "secret" not in str(error.value)


def test_a_proxy_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="through the proxy that HTTP_PROXY names"):
        ServedModel("openai:http://203.0.113.7/v1#m", retries=1)


def test_which_hosts_are_this_machine_and_which_proxy_stands_before_others(monkeypatch):
    assert all(
        map(is_loopback, ("http://localhost:8000/v1", "http://127.8.9.1/v1", "http://0.0.0.0:1", "http://[::1]"))
    )
    assert not any(
        map(is_loopback, ("http://localhost.example.org/v1", "http://10.0.0.1", "https://api.openai.com/v1"))
    )
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "inside.example.org")
    assert proxy_variable("https://api.openai.com/v1") == "ALL_PROXY"
    assert proxy_variable("https://inside.example.org/v1") is None
    assert proxy_variable("http://localhost:1/v1") is None
