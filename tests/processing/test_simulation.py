"""The simulated corpora: measured physics of their signals, and reproducibility of what is written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from scipy.signal import welch

from processing.simulate import TASKS, main, simulate
from processing.simulation import impairments, ofdm, pretrain_iq, pretrain_spectrogram, rfp, scene, waveforms


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def occupied_bandwidth_hz(samples, sampling_rate_hz):
    """Width of the band around which half a percent of the power is left on either side."""
    frequency, density = welch(samples, sampling_rate_hz, nperseg=1024, return_onesided=False, detrend=False)
    order = np.argsort(frequency)
    share = np.cumsum(density[order]) / density.sum()
    low, high = np.interp([0.005, 0.995], share, frequency[order])
    return high - low


def peak_to_average_db(samples, quantile=0.999):
    power = np.abs(samples) ** 2
    return 10 * np.log10(np.quantile(power, quantile) / power.mean())


def autocorrelation(samples, lag):
    product = np.mean(samples[lag:] * np.conj(samples[:-lag]))
    return abs(product) / np.mean(np.abs(samples) ** 2)


def nearest_mean_accuracy(train, train_labels, test, test_labels):
    means = np.stack([train[train_labels == label].mean(0) for label in range(max(train_labels) + 1)])
    return np.mean(np.linalg.norm(test[:, None] - means, axis=2).argmin(1) == test_labels)


WAVEFORMS = {
    "lte 5 MHz": (lambda rng: (ofdm.lte_downlink(rng, 5, 25), 7.68e6), 4.48e6, 0.03),
    "lte 10 MHz": (lambda rng: (ofdm.lte_downlink(rng, 5, 50), 15.36e6), 8.93e6, 0.03),
    "nr 20 MHz": (lambda rng: (ofdm.nr_downlink(rng, 8, 51, 1), 30.72e6), 18.2e6, 0.03),
    "wifi": (lambda rng: (ofdm.wifi_frame(rng, 500), 20e6), 16.4e6, 0.03),
    "bluetooth le": (lambda rng: (waveforms.gfsk(rng, 80000, 8, 0.5, 0.5), 8e6), 1.05e6, 0.05),
    "gsm": (lambda rng: (waveforms.gfsk(rng, 80000, 8, 0.5, 0.3), 8 * 1625e3 / 6), 250e3, 0.05),
    "lora 125 kHz": (lambda rng: (waveforms.lora(rng, 100, 7, 4), 500e3), 129e3, 0.05),
}


@pytest.mark.parametrize("name", WAVEFORMS)
def test_occupied_bandwidth(name, rng):
    build, expected_hz, tolerance = WAVEFORMS[name]
    samples, sampling_rate_hz = build(rng)
    assert samples.dtype == np.complex64
    assert occupied_bandwidth_hz(samples, sampling_rate_hz) == pytest.approx(expected_hz, rel=tolerance)


@pytest.mark.parametrize(
    "samples",
    [
        ofdm.lte_downlink(np.random.default_rng(1), 5, 25),
        ofdm.nr_downlink(np.random.default_rng(1), 8, 51, 1),
        ofdm.wifi_frame(np.random.default_rng(1), 500, "64qam"),
        ofdm.ofdm(np.random.default_rng(1), "qpsk", 50000, 256, 32, 200),
    ],
    ids=["lte", "nr", "wifi", "ofdm"],
)
def test_ofdm_has_power_one_and_a_peak_to_average_of_8_to_9_db(samples):
    assert np.mean(np.abs(samples) ** 2) == pytest.approx(1, rel=0.05)
    assert 8 < peak_to_average_db(samples) < 9


@pytest.mark.parametrize(
    "build",
    [
        lambda rng: waveforms.gfsk(rng, 4000, 4, 0.32),
        lambda rng: waveforms.lora(rng, 20, 7, 2),
        lambda rng: waveforms.fm_broadcast(rng, 4000, 300e3),
    ],
)
def test_frequency_modulation_has_a_constant_envelope(build, rng):
    assert peak_to_average_db(build(rng), 1.0) < 0.1


@pytest.mark.parametrize("modulation", waveforms.CONSTELLATIONS)
def test_linear_modulation_has_power_one(modulation, rng):
    samples = waveforms.linear_modulation(rng, modulation, 60000, 6)
    assert len(samples) == 60000
    assert np.mean(np.abs(samples) ** 2) == pytest.approx(1, rel=0.05)


def test_matched_filter_returns_the_constellation(rng):
    symbols = waveforms.random_symbols(rng, "16qam", 500)
    taps = waveforms.root_raised_cosine(0.35, 8)
    received = np.convolve(waveforms.shape_pulses(symbols, 8, 0.35), taps, "valid")[::8] / np.sqrt(8)
    assert np.max(np.abs(received - symbols[16 : 16 + len(received)])) < 0.02  # residual of a filter cut to 16 symbols


def test_lte_cyclic_prefix_correlates_at_the_fft_length_only(rng):
    samples = ofdm.lte_downlink(rng, 10, 25)
    assert autocorrelation(samples, 512) == pytest.approx(36 / 548, rel=0.1)
    assert autocorrelation(samples, 500) < 0.02


def test_lte_primary_synchronisation_signal_comes_every_5_ms(rng):
    samples = ofdm.lte_downlink(rng, 15, 25, cell_id=1)
    n = np.arange(63)
    spectrum = np.zeros(512, complex)
    spectrum[np.r_[-31:0, 1:32]] = np.delete(np.exp(-1j * np.pi * 29 * n * (n + 1) / 63), 31)
    correlation = np.abs(np.correlate(samples, np.fft.ifft(spectrum), "valid"))
    peaks = np.sort(np.argsort(correlation)[-3:])
    assert np.all(np.diff(peaks) == 5 * 7680)


def test_dsss_shows_its_chip_rate_and_whether_it_is_real(rng):
    def measure(modulation):
        samples = waveforms.dsss(rng, modulation, 32768, 4)
        envelope = np.abs(np.fft.fft(np.abs(samples) ** 2))
        chip_line = envelope[32768 // 4] / np.median(envelope)
        return chip_line, abs(np.mean(samples**2)) / np.mean(np.abs(samples) ** 2)

    (bpsk_line, bpsk_conjugate), (qpsk_line, qpsk_conjugate) = measure("bpsk"), measure("qpsk")
    assert bpsk_line > 5 and qpsk_line > 5
    assert bpsk_conjugate > 0.95 and qpsk_conjugate < 0.3


def test_pocsag_deviates_by_4500_hz(rng):
    samples = waveforms.pocsag(rng, 80000, 40e3, 512)
    frequency_hz = np.angle(samples[1:] * np.conj(samples[:-1])) * 40e3 / (2 * np.pi)
    assert np.median(np.abs(frequency_hz)) == pytest.approx(4.5e3, rel=0.01)
    assert np.mean(np.abs(np.abs(frequency_hz) - 4.5e3) < 50) > 0.7


def test_morse_speed(rng):
    rate, words_per_minute = 2000, 20
    on = np.abs(waveforms.morse(rng, 60 * rate, rate, words_per_minute)) > 0.5
    edges = np.flatnonzero(np.diff(on))
    marks = np.diff(edges)[0 if on[edges[0] + 1] else 1 :: 2] / rate
    assert np.min(marks) == pytest.approx(1.2 / words_per_minute, rel=0.05)
    assert np.max(marks) == pytest.approx(3.6 / words_per_minute, rel=0.05)


def test_image_rejection_and_lo_leakage():
    tone = np.exp(2j * np.pi * 100 / 1024 * np.arange(1024)).astype(np.complex64)
    spectrum = np.abs(np.fft.fft(impairments.lo_leakage(impairments.iq_imbalance(tone, 0.8, 4.0), -25, 1.0))) ** 2
    gain, phase = 10 ** (0.8 / 20), np.deg2rad(4)
    expected = (1 + 2 * gain * np.cos(phase) + gain**2) / (1 - 2 * gain * np.cos(phase) + gain**2)
    assert 10 * np.log10(spectrum[100] / spectrum[-100]) == pytest.approx(10 * np.log10(expected), abs=0.05)
    assert 10 * np.log10(spectrum[0] / (spectrum[100] + spectrum[-100])) == pytest.approx(-25, abs=0.05)


def test_amplifier_leaks_into_the_adjacent_band_when_driven_harder(rng):
    samples = waveforms.linear_modulation(rng, "16qam", 40000, 8)

    def adjacent_db(backoff_db):
        amplified = impairments.rapp_amplifier(samples, backoff_db, 2.0, 0.2)
        frequency, density = welch(amplified, nperseg=512, return_onesided=False)
        inside, outside = np.abs(frequency) < 0.085, (np.abs(frequency) > 0.12) & (np.abs(frequency) < 0.25)
        return 10 * np.log10(density[outside].sum() / density[inside].sum())

    levels = [adjacent_db(backoff_db) for backoff_db in (20, 12, 8, 4)]
    assert np.all(np.diff(levels) > 2)


def test_oscillator_line_width(rng):
    linewidth_hz, rate = 100, 1e5
    noise = impairments.phase_noise(rng, 2_000_000, linewidth_hz, rate)
    lag = round(rate / (np.pi * linewidth_hz))  # a Lorentzian line's coherence falls to 1/e here
    assert autocorrelation(noise, lag) == pytest.approx(np.exp(-1), rel=0.1)


@pytest.mark.parametrize("snr_db", [0, 17.5])
def test_awgn_snr(snr_db, rng):
    samples = 0.01 * waveforms.linear_modulation(rng, "qpsk", 100000, 8)
    noise = impairments.awgn(rng, samples, snr_db) - samples
    power_ratio = impairments.mean_power(samples) / impairments.mean_power(noise)
    assert 10 * np.log10(power_ratio) == pytest.approx(snr_db, abs=0.1)
    assert autocorrelation(noise, 1) < 0.02


def test_channel_delays_by_fractions_of_a_sample():
    time = np.arange(-128, 128)
    pulse = np.exp(-((time / 10) ** 2)).astype(np.complex64)
    channel = impairments.Channel(np.array([37.5e-9]), np.ones((1, 1)))
    power = np.abs(impairments.apply_channel(pulse, channel, 10e6)[0]) ** 2
    assert np.sum(time * power) / power.sum() == pytest.approx(0.375, abs=1e-3)


def test_indoor_channel_has_the_drawn_delay_spread_k_factor_and_power(rng):
    channels = [impairments.simo_channel(rng, 4, 40e-9, 3.0) for _ in range(300)]
    powers = np.stack([np.abs(channel.gains[0]) ** 2 for channel in channels])
    spreads = [impairments.rms_delay_spread_s(c.delays_s, p) for c, p in zip(channels, powers, strict=True)]
    assert np.allclose(spreads, 40e-9)
    assert np.max([channel.delays_s.max() for channel in channels]) < pretrain_iq.GUARD_SAMPLES / 20e6
    assert powers.sum(1) == pytest.approx(1)
    assert 10 * np.log10(powers[:, 0].mean() / powers[:, 1:].sum(1).mean()) == pytest.approx(3, abs=1)


def test_line_of_sight_steps_the_phase_evenly_over_the_array(rng):
    samples = waveforms.linear_modulation(rng, "qpsk", 2048, 8)
    received = impairments.apply_channel(samples, impairments.simo_channel(rng, 4, 30e-9, 60.0), 5e6)
    products = np.sum(received[1:] * np.conj(received[:-1]), axis=1)
    steps = np.angle(products)
    assert np.ptp(steps) < 0.01
    assert np.abs(products) == pytest.approx(np.sum(np.abs(received[0]) ** 2), rel=0.01)


def test_spectrogram_has_frequency_upwards_and_time_to_the_right(rng):
    time = np.arange(2**15)
    burst = np.exp(2j * np.pi * 0.25 * time) * (time > 2**14)
    image = scene.spectrogram_db(impairments.awgn(rng, burst, 40.0).astype(np.complex64))
    assert image.shape == (224, 224) and image.dtype == np.float32
    assert np.argmax(image.mean(1)) == pytest.approx(224 * 0.75, abs=1)
    assert np.mean(np.argmax(image, axis=0)[120:] == np.argmax(image.mean(1))) == 1
    assert image[:, :100].max() < image[:, 120:].max() - 20


def test_spectrogram_level_of_white_noise(rng):
    samples = impairments.awgn(rng, np.zeros(2**16, np.complex64), 0.0, signal_power=0.01)
    # -20 dB over 512 bins, 1.76 dB wider bins through the Hann window, and the mean of a logarithm is 2.51 dB lower
    expected_db = -20 - 10 * np.log10(512) + 1.76 - 2.51
    assert scene.spectrogram_db(samples).mean() == pytest.approx(expected_db, abs=0.1)


def test_received_emitters_have_the_asked_frequency_and_snr(rng):
    num_samples, rate = 2**16, 10e6
    duration_s = scene.capture_length(num_samples) / rate
    samples = waveforms.gfsk(rng, round(duration_s * 2e6), 8, 0.5)
    emitter = scene.Emitter(samples, 2e6, 250e3, offset_hz=-2e6)
    capture = scene.receive(rng, [emitter], [20.0], num_samples, rate)
    frequency, density = welch(capture, rate, nperseg=1024, return_onesided=False, detrend=False)
    inside, outside = np.abs(frequency + 2e6) < 150e3, np.abs(frequency - 3e6) < 1e6
    assert np.average(frequency[inside], weights=density[inside]) == pytest.approx(-2e6, abs=5e3)
    snr_db = 10 * np.log10(density[inside].sum() * (rate / 1024) / (density[outside].mean() * 250e3))
    assert snr_db == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("task", TASKS)
def test_rows_do_not_depend_on_processes_or_on_how_many_are_asked_for(task, tmp_path):
    few = load_dataset(str(simulate(task, tmp_path / "few", samples=24, seed=3)), cache_dir=str(tmp_path / "cache"))
    folder = simulate(task, tmp_path / "two", samples=24, seed=3, num_proc=2)
    two = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    more = load_dataset(str(simulate(task, tmp_path / "more", samples=40, seed=3)), cache_dir=str(tmp_path / "cache"))
    assert set(few) == set(TASKS[task].SPLITS)
    assert sum(few.num_rows.values()) == 24
    groups = []
    for split, rows in few.items():
        assert rows.features == TASKS[task].features()
        assert rows.to_list() == two[split].to_list()
        larger = {(row["recording"], row["start"]): row for row in more[split]}
        assert all(larger[row["recording"], row["start"]] == row for row in rows)
        assert all(row["split"] == split and json.loads(row["parameters"]) for row in rows)
        groups.append(set(rows["group"]))
    assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize(("control", "devices"), [(None, 4), ("same-hardware", 1)])
def test_every_base_station_keeps_its_own_hardware(control, devices):
    drawn = [json.loads(next(rfp.rows(0, "train", (n, 1), control=control))["parameters"]) for n in range(16)]
    assert len({(row["iq_gain_db"], row["am_pm_rad"]) for row in drawn}) == devices


def test_pretraining_iq_covers_its_modulations_at_a_moderate_level():
    rows = [next(pretrain_iq.rows(0, "train", index)) for index in range(300)]
    iq = np.stack([row["iq"] for row in rows])
    drawn = [json.loads(row["parameters"]) for row in rows]
    assert iq.shape[1:] == (4, 1024, 2) and iq.dtype == np.float32 and np.isfinite(iq).all()
    assert not np.array_equal(iq[0], next(pretrain_iq.rows(1, "train", 0))["iq"])
    assert {row["modulation"] for row in drawn} == set(pretrain_iq.MODULATIONS)
    level_db = 10 * np.log10(np.mean(np.sum(iq**2, axis=3), axis=(1, 2)))
    assert level_db == pytest.approx([row["level_dbfs"] for row in drawn], abs=0.01)
    # the more the direct path dominates, the nearer to one is the rank of the antennas' covariance
    samples = iq[..., 0] + 1j * iq[..., 1]
    eigenvalues = np.linalg.eigvalsh(samples @ np.conj(samples.swapaxes(1, 2)))
    high_snr = np.array([row["snr_db"] > 20 for row in drawn])
    assert np.median(eigenvalues[high_snr, -1] / eigenvalues[high_snr].sum(1)) > 0.9


def test_pretraining_spectrograms_are_finite_and_differ():
    images = np.stack([next(pretrain_spectrogram.rows(0, "train", index))["image"] for index in range(12)])
    assert images.shape == (12, 1, 224, 224) and np.isfinite(images).all()
    assert images.min() > -160 and images.max() < 10
    assert np.ptp(images.mean((1, 2, 3))) > 10
    assert images.std((1, 2, 3)).min() > 2


def _fingerprints(split, samples, control=None):
    rows = [row for item in rfp.plan({split: samples})[split] for row in rfp.rows(0, split, item, control=control)]
    iq = np.stack([row["iq"][0] for row in rows])
    return iq[..., 0] + 1j * iq[..., 1], np.array([row["label"] for row in rows])


def _spectrum_shape(samples):
    segments = samples.reshape(len(samples), -1, 64) * np.hanning(64)
    spectrum = np.log(np.mean(np.abs(np.fft.fft(segments)) ** 2, axis=1) + 1e-12)
    return spectrum - spectrum.mean(1, keepdims=True)


def test_base_stations_are_told_apart_by_what_differs():
    def accuracy(control):
        train, test = _fingerprints("train", 2400, control), _fingerprints("test", 1200, control)
        return nearest_mean_accuracy(_spectrum_shape(train[0]), train[1], _spectrum_shape(test[0]), test[1])

    assert accuracy(None) > 0.45
    assert accuracy("channel-only") > 0.35
    for control in ("same-hardware", "nothing-differs"):
        assert accuracy(control) == pytest.approx(1 / 4, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "radar"}, "expected task to be one of pretrain-iq.*found 'radar'"),
        ({"seed": -1}, "expected seed >= 0, found -1"),
        ({"samples": 2}, "expected at least 3 samples.*found 2"),
        ({"num_proc": 0}, "expected num_proc >= 1, found 0"),
        ({"control": "none"}, "expected control to be one of.*found 'none'"),
        ({"task": "rfs", "control": "same-hardware"}, "expected options of rfs among .*found 'control'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        simulate(**{"task": "rfp", "output_dir": tmp_path / "data", **arguments})


def test_command_line(tmp_path, capsys):
    main(["rfp", "--samples", "16", "--seed", "1", "--control", "same-hardware", "--output", str(tmp_path / "data")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "data")
    row = load_dataset(str(tmp_path / "data"), split="test", cache_dir=str(tmp_path / "cache"))[0]
    assert json.loads(row["parameters"])["control"] == "same-hardware"
    with pytest.raises(SystemExit):
        main(["rfp", "--samples", "1", "--output", str(tmp_path / "other")])
    assert "expected at least 3 samples" in capsys.readouterr().err


def test_a_killed_simulation_leaves_nothing_that_looks_complete_and_runs_again(tmp_path):
    code = """
import os, signal, sys
from processing.simulation import rfp
rows = rfp.rows
def rows_or_die(seed, split, item, **options):
    if split == "test":  # when the other splits are written
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(seed, split, item, **options)
rfp.rows = rows_or_die
from processing.simulate import simulate
simulate("rfp", sys.argv[1], 40)
"""
    output = tmp_path / "rfp"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code, str(output)], cwd=root, capture_output=True)
    assert ended.returncode == -9
    assert list(tmp_path.iterdir()) and not output.exists()  # what it began lies under a hidden name
    again, whole = (load_dataset(str(simulate("rfp", folder, 40))) for folder in (output, tmp_path / "whole"))
    assert again["test"].num_rows and again["test"]["iq"][:] == whole["test"]["iq"][:]
