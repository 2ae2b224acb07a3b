"""Interference in LTE: power ratios, chip rate and conjugate-cyclic lines as drawn."""

import json

import numpy as np
import pytest

from processing.simulate import split_samples
from processing.simulation import interference


def simulated(first, last, split="train"):
    rows = [next(interference.rows(0, split, index)) for index in range(first, last)]
    iq = np.concatenate([row["iq"] for row in rows])
    labels = np.array([row["label"] for row in rows])
    return iq[..., 0] + 1j * iq[..., 1], labels, [json.loads(row["parameters"]) for row in rows]


@pytest.fixture(scope="module")
def windows():
    return simulated(0, 600)


def level_db(samples):
    return 10 * np.log10(np.mean(np.abs(samples) ** 2, axis=-1))


@pytest.mark.parametrize("sampling_rate_hz", [7.68e6, 15.36e6])
@pytest.mark.parametrize("chip_rate_hz", [1e6, 2.345e6, 4e6])
def test_spread_spectrum_has_the_chip_rate_whatever_the_sampling_rate(chip_rate_hz, sampling_rate_hz):
    rng, num_samples = np.random.default_rng(0), 32768
    samples, actual_hz = interference.dsss(rng, "qpsk", num_samples, sampling_rate_hz, chip_rate_hz)
    assert samples.shape == (num_samples,) and samples.dtype == np.complex64
    assert actual_hz == pytest.approx(chip_rate_hz, abs=0.5 * sampling_rate_hz / num_samples)
    assert np.mean(np.abs(samples) ** 2) == pytest.approx(1, rel=0.05)
    time_s = np.arange(num_samples) / sampling_rate_hz

    def line(frequency_hz):
        return abs(np.mean(np.abs(samples) ** 2 * np.exp(-2j * np.pi * frequency_hz * time_s)))

    assert line(actual_hz) > 5 * np.median([line(actual_hz + offset_hz) for offset_hz in np.linspace(2e3, 1e5, 20)])
    frequency_hz = np.fft.fftfreq(num_samples, 1 / sampling_rate_hz)
    power = np.abs(np.fft.fft(samples * np.hanning(num_samples))) ** 2
    inside = np.abs(frequency_hz) < actual_hz * (1 + interference.CHIP_ROLLOFF) / 2 + 5e3
    assert power[~inside].sum() < 1e-6 * power.sum()


def test_matched_filter_returns_the_chips_of_a_repeated_code():
    samples, chip_rate_hz = interference.dsss(np.random.default_rng(1), "bpsk", 4096, 7.68e6, 2.1e6)
    samples_per_chip = 7.68e6 / chip_rate_hz
    frequency = np.fft.fftfreq(4096, 1 / samples_per_chip)
    pulse = interference.root_raised_cosine_spectrum(frequency, interference.CHIP_ROLLOFF)
    filtered = np.fft.ifft(np.fft.fft(samples, 4096) * pulse)

    def chips_from(first):
        return np.interp(np.arange(40 + first, 4000, samples_per_chip), np.arange(4096), filtered.real)

    instants = np.linspace(0, samples_per_chip, 60)
    spread = [np.std(np.abs(chips_from(first))) for first in instants]
    assert min(spread) < 0.1 < 0.3 < max(spread)  # open at the middle of the chips only
    chips = np.sign(chips_from(instants[np.argmin(spread)]))
    # one period later there is the same code, turned round where the data change; the change comes once a period
    repeats = chips[31:] * chips[:-31]
    changes = np.flatnonzero(np.diff(repeats))
    assert len(changes) > 5 and np.all(np.diff(changes) % 31 == 0)


def test_window_is_what_was_drawn(windows):
    samples, labels, drawn = windows
    assert samples.shape == (600, 4096) and np.isfinite(samples).all()
    assert np.all(np.bincount(labels) == 200)
    assert {row["bandwidth_hz"] for row in drawn} == {5e6, 10e6}
    # the level of the cell, its leakage, its noise and the interferer add up
    ratios_db = np.array(
        [[row.get("interference_to_signal_db", -300), -row["snr_db"], row["lo_leakage_dbc"]] for row in drawn]
    )
    expected_db = [row["level_dbfs"] for row in drawn] + 10 * np.log10(1 + np.sum(10 ** (ratios_db / 10), axis=1))
    assert level_db(samples) == pytest.approx(expected_db, abs=0.5)
    assert np.abs(np.mean(level_db(samples) - expected_db)) < 0.05
    assert np.std([row["level_dbfs"] for row in drawn]) == pytest.approx(interference.GAIN_JITTER_DB, rel=0.1)
    assert samples.real.std() == pytest.approx(0.0027, rel=0.15)  # of the measured recordings
    assert all(("chip_rate_hz" in row) == (label > 0) for row, label in zip(drawn, labels, strict=True))


@pytest.mark.parametrize("index", [1, 2, 4, 5, 7, 8])
def test_interferer_has_the_drawn_power_over_the_cell(index, monkeypatch):
    row = next(interference.rows(0, "test", index))
    drawn = json.loads(row["parameters"])
    draw = interference.dsss

    def turned_round(
        *arguments,
    ):  # the same row with the interferer's sign changed, so that half the difference is left
        samples, chip_rate_hz = draw(*arguments)
        return -samples, chip_rate_hz

    monkeypatch.setattr(interference, "dsss", turned_round)
    other = next(interference.rows(0, "test", index))
    interferer = (row["iq"] - other["iq"]).view(np.complex64).ravel() / 2
    assert level_db(interferer) - drawn["level_dbfs"] == pytest.approx(drawn["interference_to_signal_db"], abs=0.01)
    assert -6 <= drawn["interference_to_signal_db"] <= 0


def test_only_bpsk_has_a_conjugate_line_and_it_is_at_twice_the_carrier(windows):
    samples, labels, drawn = windows
    size = 4 * 4096
    spectrum = np.abs(np.fft.fft(samples**2, size))
    rate_hz = np.array([1.536 * row["bandwidth_hz"] for row in drawn])
    offset_hz = np.array([row.get("interferer_offset_hz", 0.0) for row in drawn])
    expected = np.rint(2 * offset_hz / rate_hz * size).astype(int) % size
    strength = spectrum[np.arange(len(expected)), expected] / np.median(spectrum, axis=1)
    found = np.abs(spectrum.argmax(1) - expected) <= 4
    bpsk, qpsk = strength[labels == 1], strength[labels == 2]
    assert np.median(bpsk) > 8 and np.median(qpsk) < 4
    assert found[labels == 1].mean() > 0.75 and found[labels == 2].mean() < 0.2
    # and it fades with the power of the interferer
    ratio_db = np.array([row.get("interference_to_signal_db", -300) for row in drawn])[labels == 1]
    assert np.median(bpsk[ratio_db > -2]) > 1.5 * np.median(bpsk[ratio_db < -4])


def test_rows_are_reproducible_and_of_different_splits_differ():
    first, again = (next(interference.rows(5, "train", 7)) for _ in range(2))
    assert np.array_equal(first.pop("iq"), again.pop("iq")) and first == again
    assert not np.array_equal(
        next(interference.rows(5, "test", 7))["iq"], next(interference.rows(5, "train", 7))["iq"]
    )
    plan = interference.plan(split_samples(30, interference.SPLITS))
    assert {split: len(items) for split, items in plan.items()} == {"train": 21, "validation": 3, "test": 6}
    encoded = interference.features().encode_example({**next(interference.rows(5, "test", 7)), "split": "test"})
    assert np.shape(encoded["iq"]) == (1, 4096, 2)
