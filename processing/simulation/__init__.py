"""Simulated recordings: every row is a pure function of (seed, task, split, index)."""

import zlib

import numpy as np


def random_generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator of its own for every key: names (task, split ...) and numbers (index ...)."""
    spawn_key = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=spawn_key))
