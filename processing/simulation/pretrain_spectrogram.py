"""Spectrograms for masked pretraining: many emitters of several services in one band, without labels."""

import json

import numpy as np

from processing import schema
from processing.simulation import random_generator, scene

TASK = "pretrain-spectrogram"
IMAGE_VALUES = "spectrogram in dB relative to full scale: frequency, lowest first, over time"
DEFAULT_SAMPLES = 3200
SPLITS = {"train": 0.9, "validation": 0.1}
OPTIONS = {}

SAMPLING_RATES_HZ = (10e6, 20e6, 40e6, 60e6)
# band -> its centre frequencies, and per service how many times it may occur (the upper end is left out)
BANDS = {
    "2.4 GHz": (
        (2.41e9, 2.47e9),
        {scene.wifi: (0, 3), scene.bluetooth: (0, 3), scene.bluetooth_low_energy: (0, 3), scene.spur: (0, 3)},
    ),
    "cellular": ((0.7e9, 3.8e9), {scene.lte: (0, 3), scene.nr: (0, 3), scene.gsm: (0, 2), scene.spur: (0, 3)}),
    "sub-GHz": (
        (0.4e9, 0.95e9),
        {scene.lora: (0, 4), scene.remote_control: (0, 4), scene.gsm: (0, 2), scene.lte: (0, 2), scene.spur: (0, 4)},
    ),
    "broadcast": ((97e6, 99e6), {scene.fm: (3, 11), scene.spur: (0, 4)}),
    "mixed": (
        (0.4e9, 6e9),
        {
            service: (0, 2)
            for service in (scene.wifi, scene.bluetooth, scene.lte, scene.nr, scene.gsm, scene.lora)
            + (scene.fm, scene.remote_control, scene.spur)
        },
    ),
}
# A piconet spreads over the band by itself; broadcasting has 20 MHz.
LARGEST_OFFSETS_HZ = {scene.bluetooth: 0.0, scene.fm: 10e6}


def features():
    return schema.image_features(1, scene.IMAGE_SIZE, scene.IMAGE_SIZE)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def rows(seed, split, index):
    """One capture of 2^17 or 2^18 samples (2 to 26 ms)."""
    rng = random_generator(seed, TASK, split, index)
    band_name = rng.choice(list(BANDS))
    center_range_hz, services = BANDS[band_name]
    sampling_rate_hz = float(rng.choice(SAMPLING_RATES_HZ))
    num_samples = 2 ** int(rng.integers(17, 19))
    duration_s = scene.capture_length(num_samples) / sampling_rate_hz

    present = [service for service, bounds in services.items() for _ in range(rng.integers(*bounds))]
    if all(service is scene.spur for service in present):
        present.append(rng.choice([service for service in services if service is not scene.spur]))
    emitters, snrs_db = [], []
    for service in present:
        sent = service(rng, duration_s, sampling_rate_hz)
        offset_hz = rng.uniform(-1, 1) * min(0.45 * sampling_rate_hz, LARGEST_OFFSETS_HZ.get(service, np.inf))
        emitters += [emitter._replace(offset_hz=emitter.offset_hz + offset_hz) for emitter in sent]
        snrs_db += [rng.uniform(0, 40)] * len(sent)
    level_dbfs = rng.uniform(-45, -10)
    image = scene.received_image(rng, emitters, snrs_db, num_samples, sampling_rate_hz, level_dbfs)
    parameters = {
        "band": str(band_name),
        "services": [service.__name__ for service in present],
        "duration_s": num_samples / sampling_rate_hz,
        "snrs_db": snrs_db,
        "level_dbfs": level_dbfs,
    }
    recording = f"{TASK}-{seed}-{split}-{index}"
    yield {
        "image": image,
        "recording": recording,
        "group": recording,
        "sampling_rate_hz": sampling_rate_hz,
        "center_frequency_hz": float(rng.uniform(*center_range_hz)),
        "start": 0,
        "parameters": json.dumps(parameters),
        "source": f"processing.simulation.{TASK}",
    }
