"""RF fingerprinting: which of four base stations sent this window of LTE or NR downlink.

A station differs from the others in its hardware (frequency error, IQ imbalance, LO leakage, amplifier, ripple of the
analogue filter) and in the channel from its site; so DC, where the LO leaks, tells in part; level does not. Nothing it
sends identifies it: cell identities and data are drawn for every recording. Test recordings are of another day, on which
part of every channel has changed.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

from processing import schema
from processing.simulation import impairments, ofdm, random_generator

TASK = "rfp"
DEFAULT_SAMPLES = 12000
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
# Controls, without what tells the stations apart. Under the grouped split the first two must score at chance: one
# hardware for all, with a channel drawn anew for every recording or with one channel for all. The third keeps the sites
# and shows how much of a score is the channel's and not the transmitter's.
OPTIONS = {"control": (None, "same-hardware", "nothing-differs", "channel-only")}
LABEL_NAMES = ["bes", "browning", "honors", "meb"]

SAMPLING_RATE_HZ = 7.68e6
CENTER_FREQUENCIES_HZ = {"lte": 2.685e9, "nr": 3.685e9}
WINDOW_SAMPLES = 512
MAX_WINDOWS_PER_RECORDING = 30
GUARD_SAMPLES = 64
DAYS = {"train": 1, "validation": 1, "test": 2}
# Shares of the power of every path that stay, change from day to day and change from recording to recording: both ends
# are fixed and high up, so most of it stays.
STATIC_SHARE, DAY_SHARE, RECORDING_SHARE = 0.8, 0.12, 0.08


@dataclass(frozen=True)
class Hardware:
    """A transmitter's analogue fingerprint."""

    frequency_error_ppm: float
    iq_gain_db: float
    iq_phase_deg: float
    lo_leakage_dbc: float
    input_backoff_db: float
    am_pm_rad: float
    linewidth_hz: float

    @classmethod
    def draw(cls, rng):
        return cls(
            frequency_error_ppm=rng.uniform(-0.9, 0.9),
            iq_gain_db=rng.uniform(-1.2, 1.2),
            iq_phase_deg=rng.uniform(-6, 6),
            lo_leakage_dbc=rng.uniform(-24, -17),
            input_backoff_db=rng.uniform(4, 9),
            am_pm_rad=rng.uniform(-0.4, 0.4),
            linewidth_hz=rng.uniform(5, 60),
        )


def _complex_normal(rng, size):
    return (rng.standard_normal(size) + 1j * rng.standard_normal(size)) / np.sqrt(2)


def _transmitter(seed, device):
    """Fixed for all recordings of a device: hardware, and the five taps of its filter (about +-1.5 dB of ripple)."""
    rng = random_generator(seed, TASK, "hardware", device)
    return Hardware.draw(rng), np.concatenate([[1], 0.12 * np.sqrt(2) * _complex_normal(rng, 4)])


def _site_channel(seed, site, day, rng):
    """Channel of a site in one recording; its delays, mean powers and part of its phases never change."""
    site_rng = random_generator(seed, TASK, "site", site)
    spread_s, k_factor_db = site_rng.uniform(50e-9, 300e-9), site_rng.uniform(-3, 6)
    channel = impairments.simo_channel(site_rng, 1, spread_s, k_factor_db)
    day_part = _complex_normal(random_generator(seed, TASK, "site", site, day), channel.gains.shape)
    fading = np.sqrt(STATIC_SHARE) * np.exp(1j * np.angle(channel.gains)) + np.sqrt(DAY_SHARE) * day_part
    fading += np.sqrt(RECORDING_SHARE) * _complex_normal(rng, channel.gains.shape)
    return channel._replace(gains=np.abs(channel.gains) * fading)


def features():
    return schema.iq_features(1, WINDOW_SAMPLES, label_names=LABEL_NAMES)


def plan(split_samples):
    """Recordings with their number of windows: whole rounds of every station with every technology."""
    items = {}
    for split, count in split_samples.items():
        rounds = -(-count // (8 * MAX_WINDOWS_PER_RECORDING))
        recordings = min(8 * rounds, count)
        items[split] = [(n, count // recordings + (n < count % recordings)) for n in range(recordings)]
    return items


def rows(seed, split, item, control=None):
    """The windows of one recording: station `recording` modulo 4, LTE and NR in turn."""
    recording, num_windows = item
    rng = random_generator(seed, TASK, split, recording)
    label, technology, day = recording % 4, ("lte", "nr")[recording // 4 % 2], DAYS[split]
    hardware, ripple = _transmitter(seed, 0 if control else label)
    site = {"same-hardware": f"{split}-{recording}", "nothing-differs": 0}.get(control, label)
    center_hz = CENTER_FREQUENCIES_HZ[technology]

    if technology == "lte":
        sent = ofdm.lte_downlink(rng, 3, 25, rng.uniform(0.3, 1), rng.integers(504))
    else:
        sent = ofdm.nr_downlink(rng, 3, 25, 0, rng.uniform(0.3, 1))
    length = MAX_WINDOWS_PER_RECORDING * WINDOW_SAMPLES + 2 * GUARD_SAMPLES
    start = rng.integers(0, len(sent) - length + 1)
    samples = impairments.iq_imbalance(sent[start : start + length], hardware.iq_gain_db, hardware.iq_phase_deg)
    leakage_dbc = hardware.lo_leakage_dbc + rng.normal(0, 0.5)
    samples = impairments.lo_leakage(samples, leakage_dbc, rng.uniform(0, 2 * np.pi))
    samples = impairments.rapp_amplifier(samples, hardware.input_backoff_db, 2.0, hardware.am_pm_rad)
    samples = np.convolve(samples, ripple, "same")
    carrier_offset_hz = (hardware.frequency_error_ppm + rng.normal(0, 0.03)) * 1e-6 * center_hz
    samples *= impairments.carrier_offset(length, carrier_offset_hz, SAMPLING_RATE_HZ)
    samples *= impairments.phase_noise(rng, length, hardware.linewidth_hz, SAMPLING_RATE_HZ)
    channel = _site_channel(seed, site, day, rng)
    received = impairments.apply_channel(samples, channel, SAMPLING_RATE_HZ)[0, GUARD_SAMPLES:-GUARD_SAMPLES]
    snr_db, level_dbfs = rng.uniform(10, 30), rng.uniform(-30, -10)
    received = impairments.awgn(rng, received, snr_db)
    received *= 10 ** (level_dbfs / 20) / np.sqrt(impairments.mean_power(received))

    windows = received.astype(np.complex64).view(np.float32).reshape(-1, 1, WINDOW_SAMPLES, 2)
    name = f"{TASK}-{seed}-{split}-{recording}"
    drawn = {"carrier_offset_hz": carrier_offset_hz, "lo_leakage_dbc": leakage_dbc}
    parameters = {"technology": technology, "day": day, "control": control, **asdict(hardware), **drawn}
    common = {
        "label": label,
        "recording": name,
        "group": name,
        "sampling_rate_hz": SAMPLING_RATE_HZ,
        "center_frequency_hz": center_hz,
        "parameters": json.dumps({**parameters, "snr_db": snr_db, "level_dbfs": level_dbfs}),
        "source": f"processing.simulation.{TASK}",
    }
    for number in range(num_windows):
        yield {"iq": windows[number], "start": number * WINDOW_SAMPLES, **common}
