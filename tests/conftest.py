"""Fixtures for every test."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory, monkeypatch):
    """Keep what `datasets` caches out of the user's home."""
    cache = tmp_path_factory.mktemp("huggingface")
    monkeypatch.setenv("HF_HOME", str(cache))  # for subprocesses
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """(address, folder) of a Hub that runs as long as the tests do; see `tests.hub_server`."""
    folder = tmp_path_factory.mktemp("hub")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "tests.hub_server", str(folder), str(port)], cwd=ROOT)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the test Hub ended at its start"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait()
