"""RF signal classification: spectrograms of one dominant service, its neighbours and noise."""

import json

import numpy as np

from processing import schema
from processing.simulation import random_generator, scene

TASK = "rfs"
DEFAULT_SAMPLES = 4000
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
OPTIONS = {}

# class -> its services, the widths of band it is looked at with (1:4) and what is heard beside it. The ranges overlap,
# and the duration varies 1:16, so that scale alone does not give the class.
CLASSES = {
    "bluetooth": ([scene.bluetooth, scene.bluetooth_low_energy], (16e6, 64e6), [scene.wifi, scene.bluetooth]),
    "cellular": ([scene.lte, scene.nr, scene.gsm], (6e6, 40e6), [scene.lte, scene.gsm]),
    "fm": ([scene.fm], (300e3, 1.2e6), [scene.fm]),
    "lora": ([scene.lora], (250e3, 1e6), [scene.lora, scene.remote_control]),
    "morse": ([scene.morse], (6e3, 24e3), [scene.morse]),
    "on-off-keying": ([scene.remote_control], (100e3, 400e3), [scene.remote_control, scene.lora]),
    "pocsag": ([scene.pocsag], (25e3, 100e3), [scene.pocsag]),
    "wifi": ([scene.wifi], (20e6, 80e6), [scene.bluetooth, scene.wifi]),
}
CENTER_FREQUENCIES_HZ = {
    "bluetooth": (2.42e9, 2.46e9),
    "cellular": (0.7e9, 3.8e9),
    "fm": (88e6, 108e6),
    "lora": (863e6, 870e6),
    "morse": (7.0e6, 7.04e6),
    "on-off-keying": (433.1e6, 434.7e6),
    "pocsag": (148e6, 174e6),
    "wifi": (2.412e9, 2.472e9),
}
LABEL_NAMES = sorted(CLASSES)


def features():
    return schema.image_features(1, scene.IMAGE_SIZE, scene.IMAGE_SIZE, label_names=LABEL_NAMES)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def _shifted(emitters, offset_hz, gain_db=0.0):
    return [e._replace(offset_hz=e.offset_hz + offset_hz, gain_db=e.gain_db + gain_db) for e in emitters]


def rows(seed, split, index):
    """One simulated recording: label `index` modulo the number of classes, everything else drawn."""
    rng = random_generator(seed, TASK, split, index)
    label = index % len(LABEL_NAMES)
    name = LABEL_NAMES[label]
    services, band_range_hz, neighbours = CLASSES[name]
    band_hz = float(np.exp(rng.uniform(*np.log(band_range_hz))))
    num_samples = int(2 ** rng.uniform(15, 17))
    duration_s = scene.capture_length(num_samples) / band_hz

    service = services[rng.integers(len(services))]
    emitters = service(rng, duration_s, band_hz)
    free_hz = max(0.9 * band_hz - max(e.bandwidth_hz + 2 * abs(e.offset_hz) for e in emitters), 0.05 * band_hz)
    emitters = _shifted(emitters, rng.uniform(-0.5, 0.5) * free_hz)
    snr_db = rng.uniform(8, 35)
    neighbour_names = []
    for neighbour in [*rng.choice(neighbours, rng.integers(0, 3)), *[scene.spur] * rng.integers(0, 3)]:
        gain_db = rng.uniform(-25, -8)
        emitters += _shifted(neighbour(rng, duration_s, band_hz), rng.uniform(-0.5, 0.5) * band_hz, gain_db)
        neighbour_names.append(neighbour.__name__)
    level_dbfs = rng.uniform(-45, -10)
    image = scene.received_image(rng, emitters, [snr_db] * len(emitters), num_samples, band_hz, level_dbfs)
    parameters = {
        "service": service.__name__,
        "neighbours": neighbour_names,
        "duration_s": num_samples / band_hz,
        "snr_db": snr_db,
        "level_dbfs": level_dbfs,
    }
    recording = f"{TASK}-{seed}-{split}-{index}"
    yield {
        "image": image,
        "label": label,
        "recording": recording,
        "group": recording,
        "sampling_rate_hz": band_hz,
        "center_frequency_hz": float(rng.uniform(*CENTER_FREQUENCIES_HZ[name])),
        "start": 0,
        "parameters": json.dumps(parameters),
        "source": f"processing.simulation.{TASK}",
    }
