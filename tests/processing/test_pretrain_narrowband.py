"""Narrow-band transmitters at a cheap receiver: keying, deviation, key-on and converter as the text says."""

import json

import numpy as np
import pytest
from scipy.signal import welch

from processing.simulation import pretrain_narrowband as narrowband

RATE_HZ = 250e3


@pytest.fixture(scope="module")
def recordings():
    rows = [next(narrowband.rows(0, "train", index)) for index in range(400)]
    iq = np.stack([row["iq"][0] for row in rows])
    return rows, iq, [json.loads(row["parameters"]) for row in rows]


def frequency_hz(samples, rate_hz=RATE_HZ):
    return np.angle(samples[1:] * np.conj(samples[:-1])) * rate_hz / (2 * np.pi)


def test_keying_carries_its_bits_in_marks_and_spaces():
    bits = np.array([1, 0, 0, 1, 1, 1, 0])
    marks, spaces = narrowband.keyed_pulses(bits, "pwm", 1e-3, 1, 3).reshape(-1, 2).T
    assert (marks > spaces).tolist() == bits.astype(bool).tolist() and marks + spaces == pytest.approx(4e-3)
    marks, spaces = narrowband.keyed_pulses(bits, "ppm", 1e-3, 2, 4).reshape(-1, 2).T
    assert marks == pytest.approx(1e-3) and spaces == pytest.approx(np.where(bits, 4e-3, 2e-3))
    for coding, chips in (("manchester", np.stack([bits, 1 - bits], 1).ravel()), ("fixed", bits)):
        units = np.rint(narrowband.keyed_pulses(bits, coding, 1e-3) / 1e-3).astype(int)
        levels = np.repeat(np.arange(len(units)) % 2 == 0, units)
        assert levels.astype(int).tolist() == [1, *chips, 0]  # a mark before and a space behind


@pytest.mark.parametrize("coding", narrowband.CODINGS)
def test_on_off_keying_has_pulses_of_telegrams_and_never_a_silent_window(coding):
    for seed in range(40):
        keyed = np.abs(narrowband.MODULATIONS[f"on-off-keying {coding}"][0](np.random.default_rng(seed), RATE_HZ))
        on = keyed > 0.5
        assert len(keyed) == narrowband.LENGTH and 0.02 < on.mean() < 0.9
        assert np.all(keyed[on] == 1) and np.all(keyed[~on] < 10 ** (-25 / 20) + 1e-6)
        lengths_s = np.diff(np.flatnonzero(np.diff(on))) / RATE_HZ
        assert lengths_s.min() > 75e-6  # a chip, up to one sample's rounding


def test_ppm_marks_are_all_alike():
    on = np.abs(narrowband.MODULATIONS["on-off-keying ppm"][0](np.random.default_rng(2), RATE_HZ)) > 0.5
    edges = np.flatnonzero(np.diff(on.astype(int)))
    first = edges[0] if on[edges[0] + 1] else edges[1]
    marks, spaces = np.diff(edges[edges >= first])[::2], np.diff(edges[edges >= first])[1::2]
    assert np.ptp(np.sort(marks)[: len(marks) // 2 + 1]) <= 1  # the synchronising mark may be longer
    assert len(spaces) > 3 and np.ptp(spaces) > 3


@pytest.mark.parametrize(("levels", "rounding"), [(2, (0, 0)), (2, (0.5, 0.5)), (4, (0, 0))])
def test_fsk_has_its_deviation_and_symbol_rate(levels, rounding):
    build = narrowband._frequency_shift_keying(levels, rounding, (20e3, 20e3), (5e3, 5e3))
    bursts = [build(np.random.default_rng(seed), RATE_HZ) for seed in range(20)]
    for burst in bursts:
        on = np.abs(burst) > 0.5
        assert np.abs(burst[on]) == pytest.approx(1, abs=1e-5) and on.mean() > 0.05
        found = frequency_hz(burst)[on[1:] & on[:-1]]
        assert np.quantile(np.abs(found), 0.99) == pytest.approx(20e3, rel=0.02)
        if not rounding[0]:
            assert np.unique(np.rint(found / 1e3)).size <= levels + 1  # one sample in a pause's edge is neither
        if not rounding[0]:  # steps come at multiples of a symbol, up to a sample's rounding
            steps = np.diff(np.flatnonzero(np.abs(np.diff(frequency_hz(burst))) > 5e3)) / (RATE_HZ / 5e3)
            inner = steps[(steps > 0.5) & (steps < 30)][1:-1]
            assert np.mean(np.abs(inner - np.rint(inner)) < 0.05) > 0.8
    share_on = [np.mean(np.abs(burst) > 0.5) for burst in bursts]
    assert min(share_on) < 0.5 < max(share_on)  # some start or stop within the window


def test_lora_sweeps_half_the_band_at_most():
    widths = []
    for seed in range(30):
        burst = narrowband._lora(np.random.default_rng(seed), RATE_HZ)
        on = np.abs(burst) > 0.5
        found = np.abs(frequency_hz(burst)[on[1:] & on[:-1]])
        widths.append(2 * np.quantile(found, 0.99) / RATE_HZ)
    assert max(widths) <= 0.5 and np.unique(np.rint(np.log2(widths))).tolist() == [-3, -2, -1]


def test_time_since_key_on():
    samples = np.zeros(100, np.complex64)
    samples[:10], samples[50:] = 1, 1
    since_s = narrowband.seconds_on(samples, 1e3)
    assert np.all(since_s[:10] >= 1) and since_s[50:] == pytest.approx(np.arange(50) / 1e3)


def test_oscillator_is_pulled_at_key_on_and_settles():
    keyed = np.zeros(narrowband.LENGTH, np.complex64)
    keyed[1000:] = 1
    pulls = []
    for seed in range(200):
        sent, pull_hz = narrowband.transmit(np.random.default_rng(seed), keyed, RATE_HZ)
        assert sent.shape == keyed.shape and sent.dtype == np.complex64
        found = frequency_hz(sent)
        assert np.abs(sent[:995]).max() == 0 and np.abs(found[-200:]).max() < 1e3  # by now only the drift is left
        assert found[1015:1020].mean() == pytest.approx(pull_hz, abs=0.75 * abs(pull_hz) + 200)
        level_db = 20 * np.log10(np.abs(sent[1040:-10]))
        assert level_db.max() < 0.1 and level_db.min() > -4.1
        pulls.append((pull_hz, found[1008:1012].mean()))
    pull, early = np.array(pulls).T
    assert np.abs(pull).max() > 4e3 and np.abs(pull).max() <= 5e3 and np.mean(pull == 0) == pytest.approx(0.3, abs=0.1)
    assert np.corrcoef(pull, early)[0, 1] > 0.95


def test_converter_has_256_levels_and_clips():
    ramp = np.linspace(-1.5, 1.5, 3001).astype(np.float32)
    found = narrowband.quantise((ramp + 1j * ramp[::-1]).astype(np.complex64)).reshape(-1, 2)
    assert np.unique(found).size == 256 and np.abs(found).max() == 127.5 / 128
    inside = np.abs(ramp) < 127 / 128
    assert np.abs(found[inside, 0] - ramp[inside]).max() <= 0.5 / 128 + 1e-6


def test_rows_are_within_the_converter_and_the_asked_ranges(recordings):
    rows, iq, drawn = recordings
    assert rows[0]["iq"].shape == (1, 4096, 2) and iq.dtype == np.float32 and np.isfinite(iq).all()
    steps = iq * 128 - 0.5
    assert np.all(steps == np.rint(steps)) and np.abs(iq).max() <= 127.5 / 128
    assert {row["modulation"] for row in drawn} == set(narrowband.MODULATIONS)
    rates_hz = np.array([row["sampling_rate_hz"] for row in rows])
    assert 200e3 <= rates_hz.min() < 220e3 and 900e3 < rates_hz.max() <= 1e6
    assert all(300e6 <= row["center_frequency_hz"] <= 930e6 for row in rows)
    offset = np.array([row["offset_hz"] for row in drawn]) / rates_hz
    assert 0.42 < np.abs(offset).max() <= 0.45 and abs(offset.mean()) < 0.05
    clipped = np.mean(np.abs(iq) > 0.99, axis=(1, 2)) > 0.01
    assert 0.01 < clipped.mean() < 0.15
    loud = np.array([row["level_dbfs"] > 0 for row in drawn])
    assert np.all(loud[clipped] | np.array([row["level_dbfs"] > -6 for row in drawn])[clipped])


def test_carriers_are_where_and_as_strong_as_drawn():
    found = 0
    for index in range(1500):
        row = next(narrowband.rows(1, "train", index))
        drawn, rate_hz = json.loads(row["parameters"]), row["sampling_rate_hz"]
        if drawn["modulation"] != "carrier" or drawn["second"] or drawn["snr_db"] < 15 or drawn["level_dbfs"] > -2:
            continue
        samples = row["iq"][0].view(np.complex64)[:, 0]
        samples = samples - samples.mean()
        offset_hz = drawn["offset_hz"]
        if abs(offset_hz) > 0.4 * drawn["cutoff"] * rate_hz or abs(offset_hz) < 0.01 * rate_hz:
            continue  # taken away by the filter, or under the DC
        frequency, density = welch(samples, rate_hz, nperseg=256, return_onesided=False, detrend=False)
        assert frequency[density.argmax()] == pytest.approx(offset_hz, abs=2 * rate_hz / 256 + 1.5e3)
        peak_dbfs = 20 * np.log10(np.quantile(np.abs(samples), 0.95))
        assert peak_dbfs == pytest.approx(drawn["level_dbfs"], abs=5)
        found += 1
    assert found >= 5


def test_rows_are_a_function_of_seed_split_and_index(recordings):
    rows, iq, _ = recordings
    assert np.array_equal(next(narrowband.rows(0, "train", 7))["iq"][0], iq[7])
    for other in ((1, "train", 7), (0, "validation", 7), (0, "train", 8)):
        assert not np.array_equal(next(narrowband.rows(*other))["iq"][0], iq[7])
    assert len({row["recording"] for row in rows}) == len(rows)
