"""Fixtures for every test."""

import pytest


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory, monkeypatch):
    """Keep what `datasets` caches out of the user's home."""
    cache = tmp_path_factory.mktemp("huggingface")
    monkeypatch.setenv("HF_HOME", str(cache))  # for subprocesses
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")
