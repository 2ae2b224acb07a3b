"""RF signal classification: spectrograms of one dominant service, its neighbours and noise.

An image has frequency on rows, highest first, and time on columns, as the pictures that `processing.rfs_images` reads.
Level, DC and the length of a capture are drawn alike for all classes. How much of the time something is sent belongs
to a service and tells in part.
"""

import json
from typing import NamedTuple

import numpy as np

from processing import schema
from processing.simulation import random_generator, scene, traffic

TASK = "rfs"
IMAGE_VALUES = "spectrogram in dB relative to full scale: frequency, highest first, over time"
DEFAULT_SAMPLES = 4000
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
OPTIONS = {}


class Service(NamedTuple):
    """How a class is looked at."""

    traffic: list  # traffic functions, one of which is drawn
    band_hz: tuple  # least and greatest width of the capture
    center_frequency_hz: tuple
    neighbours: list  # what else is heard, weaker
    raster_hz: float  # neighbours are multiples of it away


# A capture's length in samples is drawn alike for all classes: resized to an image, the grain of the noise shows it.
LOG2_SAMPLES = (15, 17)
# The widths of band spread 1:4 and overlap from class to class, as do the durations, so that scale alone does not give
# the class.
CLASSES = {
    "RS41-Radiosonde": Service(
        [traffic.radiosonde], (16e3, 64e3), (400e6, 406e6), [traffic.radiosonde, traffic.land_mobile], 10e3
    ),
    "Radioteletype": Service(
        [traffic.radioteletype], (4e3, 16e3), (7.04e6, 14.1e6), [traffic.radioteletype, scene.morse], 100
    ),
    "ads-b": Service([traffic.ads_b], (4e6, 16e6), (1.088e9, 1.092e9), [traffic.distance_measuring], 1e6),
    "airband": Service([traffic.airband], (12.5e3, 50e3), (118e6, 137e6), [traffic.airband], 25e3 / 3),
    "ais": Service([traffic.ais], (50e3, 200e3), (161.9e6, 162.1e6), [traffic.land_mobile, traffic.ais], 25e3),
    "automatic-picture-transmission": Service(
        [traffic.automatic_picture_transmission],
        (40e3, 160e3),
        (137e6, 138e6),
        [traffic.airband, scene.pocsag],
        2.5e3,
    ),
    "bluetooth": Service(
        [scene.bluetooth, scene.bluetooth_low_energy],
        (8e6, 32e6),  # narrow enough to see it hop for some ms
        (2.42e9, 2.46e9),
        [scene.wifi, scene.bluetooth],
        1e6,
    ),
    "cellular": Service([scene.lte, scene.nr, scene.gsm], (6e6, 24e6), (0.7e9, 3.8e9), [scene.lte, scene.gsm], 200e3),
    "digital-audio-broadcasting": Service(
        [traffic.digital_audio_broadcasting],
        (2e6, 8e6),
        (174e6, 240e6),
        [traffic.digital_audio_broadcasting],
        1.712e6,
    ),
    "digital-speech-decoder": Service(
        [traffic.digital_voice], (12.5e3, 50e3), (400e6, 470e6), [traffic.digital_voice, traffic.land_mobile], 12.5e3
    ),
    "fm": Service([scene.fm], (300e3, 1.2e6), (88e6, 108e6), [scene.fm], 100e3),
    "lora": Service([scene.lora], (250e3, 1e6), (863e6, 870e6), [scene.lora, scene.remote_control], 50e3),
    "morse": Service([scene.morse], (6e3, 24e3), (7.0e6, 7.04e6), [scene.morse, traffic.radioteletype], 100),
    "on-off-keying": Service(
        [scene.remote_control], (100e3, 400e3), (433.1e6, 434.7e6), [scene.remote_control, scene.lora], 10e3
    ),
    "packet": Service([traffic.packet], (12.5e3, 50e3), (144e6, 146e6), [traffic.packet, traffic.land_mobile], 12.5e3),
    "pocsag": Service([scene.pocsag], (25e3, 100e3), (148e6, 174e6), [scene.pocsag, traffic.land_mobile], 12.5e3),
    "remote-keyless-entry": Service(
        [traffic.keyless_entry], (100e3, 400e3), (433.1e6, 434.7e6), [scene.remote_control, scene.lora], 10e3
    ),
    "sstv": Service(
        [traffic.slow_scan_television],
        (6e3, 24e3),
        (28.6e6, 29.7e6),
        [traffic.slow_scan_television, scene.morse],
        500,
    ),
    "vor": Service([traffic.vor], (25e3, 100e3), (108e6, 118e6), [traffic.vor, traffic.airband], 25e3),
    "wifi": Service([scene.wifi], (20e6, 80e6), (2.412e9, 2.472e9), [scene.bluetooth, scene.wifi], 5e6),
}
LABEL_NAMES = sorted(CLASSES)


def features():
    return schema.image_features(1, scene.IMAGE_SIZE, scene.IMAGE_SIZE, label_names=LABEL_NAMES)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def _shifted(emitters, offset_hz, gain_db=0.0):
    return [e._replace(offset_hz=e.offset_hz + offset_hz, gain_db=e.gain_db + gain_db) for e in emitters]


def heard(rng, traffic_function, duration_s, band_hz):
    """Traffic that is on the air during the capture: a lightly loaded NR cell may send nothing for some ms."""
    emitters = traffic_function(rng, duration_s, band_hz)
    while not any(emitter.samples.any() for emitter in emitters):
        emitters = traffic_function(rng, duration_s, band_hz)
    return emitters


def rows(seed, split, index):
    """One simulated recording: label `index` modulo the number of classes, everything else drawn."""
    rng = random_generator(seed, TASK, split, index)
    label = index % len(LABEL_NAMES)
    service = CLASSES[LABEL_NAMES[label]]
    band_hz = float(np.exp(rng.uniform(*np.log(service.band_hz))))
    num_samples = int(2 ** rng.uniform(*LOG2_SAMPLES))
    duration_s = scene.capture_length(num_samples) / band_hz

    traffic_function = service.traffic[rng.integers(len(service.traffic))]
    emitters = heard(rng, traffic_function, duration_s, band_hz)
    free_hz = max(0.9 * band_hz - max(e.bandwidth_hz + 2 * abs(e.offset_hz) for e in emitters), 0.05 * band_hz)
    carrier_hz = rng.uniform(-0.5, 0.5) * free_hz
    emitters = _shifted(emitters, carrier_hz)
    snr_db = rng.uniform(8, 35)
    # the channels of the raster in the band, without those in use
    channels_hz = carrier_hz + service.raster_hz * np.arange(-1000, 1001)
    channels_hz = channels_hz[np.abs(channels_hz) < 0.5 * band_hz]
    used_hz = np.array([emitter.offset_hz for emitter in emitters])
    channels_hz = channels_hz[np.abs(channels_hz[:, None] - used_hz).min(1) > 0.4 * service.raster_hz]
    neighbours = []
    for neighbour in rng.choice(service.neighbours, rng.integers(0, 3) if len(channels_hz) else 0):
        neighbours.append((neighbour, rng.choice(channels_hz)))
    neighbours += [(scene.spur, rng.uniform(-0.5, 0.5) * band_hz) for _ in range(rng.integers(0, 3))]
    for neighbour, offset_hz in neighbours:
        emitters += _shifted(neighbour(rng, duration_s, band_hz), offset_hz, rng.uniform(-25, -8))
    level_dbfs = rng.uniform(-45, -10)
    image = scene.received_image(rng, emitters, [snr_db] * len(emitters), num_samples, band_hz, level_dbfs)
    image = np.ascontiguousarray(image[:, ::-1])  # highest frequency first
    parameters = {
        "service": traffic_function.__name__,
        "neighbours": [neighbour.__name__ for neighbour, _ in neighbours],
        "duration_s": num_samples / band_hz,
        "carrier_offset_hz": carrier_hz,
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
        "center_frequency_hz": float(rng.uniform(*service.center_frequency_hz)),
        "start": 0,
        "parameters": json.dumps(parameters),
        "source": f"processing.simulation.{TASK}",
    }
