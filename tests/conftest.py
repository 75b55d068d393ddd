"""Settings and fixtures of all tests."""

import os
import threading

import pytest
import torch
from hypothesis import settings

from tests.support.packages import Index

# Servers of tests are on this machine; where there is a proxy, it is not asked for them.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.register_profile("soak", deadline=None, max_examples=10_000)  # pytest --hypothesis-profile=soak
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def one_thread(request):
    """For every fast test: on tensors so small, threads only wait for each other."""
    if "slow" in request.keywords:
        yield
        return
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


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
