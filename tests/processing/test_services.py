"""Measured physics of the services that `rfs` adds, and its classes."""

import json

import numpy as np
import pytest
from scipy.signal import hilbert

from processing.simulation import ofdm, rfs, scene, services, traffic
from processing.simulation.waveforms import root_raised_cosine


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def frequency_hz(samples, sampling_rate_hz):
    """Instantaneous frequency."""
    return np.angle(samples[1:] * np.conj(samples[:-1])) * sampling_rate_hz / (2 * np.pi)


def run_lengths(values):
    """Lengths of runs of equal values, without the first and the last, which may be cut."""
    return np.diff(np.flatnonzero(np.diff(values)))


def line_amplitude(samples, sampling_rate_hz, line_hz):
    return abs(np.mean(samples * np.exp(-2j * np.pi * line_hz / sampling_rate_hz * np.arange(len(samples)))))


def hdlc_bits(samples, samples_per_bit):
    """Bits before NRZI: one where the level stays."""
    level = np.sign(frequency_hz(samples, 1.0))[samples_per_bit // 2 :: samples_per_bit]
    return (level[1:] == level[:-1]).astype(int)


def test_mode_s_pulses(rng):
    for extended, length_us in ((True, 120), (False, 64)):
        samples = services.ads_b(rng, extended)
        assert len(samples) == length_us * 10
        on = np.abs(samples) > 0.5
        starts_us = np.flatnonzero(np.diff(on.astype(int), prepend=0) == 1) / 10
        assert starts_us[:4] == pytest.approx([0, 1, 3.5, 4.5], abs=0.11)
        assert starts_us[4] >= 8
        # every bit has its pulse of 0.5 us in one half or the other
        halves = on[80:].reshape(-1, 2, 5).mean(2)
        assert np.all((halves > 0.5).sum(1) == 1)
        assert on[80:].mean() == pytest.approx(0.5, abs=0.01)


def test_framing_pulses_of_mode_a_c(rng):
    starts = np.flatnonzero(np.diff((np.abs(services.mode_a_c(rng)) > 0.5).astype(int), prepend=0) == 1)
    assert np.ptp(starts) / 10 == pytest.approx(20.3, abs=0.1)


def test_distance_measuring_pulse_pairs(rng):
    (emitter,) = traffic.distance_measuring(rng, 2e-3, 4e6)
    on = np.abs(emitter.samples) > 0.5
    edges = np.flatnonzero(np.diff(on.astype(int)))[:4] / emitter.sampling_rate_hz
    assert edges[1] - edges[0] == pytest.approx(3.5e-6, abs=0.3e-6)
    assert edges[2] - edges[0] == pytest.approx(12e-6, abs=0.3e-6)


def test_ais_burst(rng):
    samples = services.ais(rng)
    assert 230 / 9600 < len(samples) / services.AIS_SAMPLING_RATE_HZ < services.AIS_SLOT_S
    deviation_hz = np.abs(frequency_hz(samples, services.AIS_SAMPLING_RATE_HZ))
    assert np.quantile(deviation_hz, 0.98) == pytest.approx(2400, rel=0.05)
    bits = hdlc_bits(samples, 5)
    # the last of the training bits, then the flag; no more than five ones in a row up to the next flag
    first = "".join(map(str, bits)).index("01111110")
    assert first == pytest.approx(32, abs=1)
    body = "".join(map(str, bits[first + 8 :]))
    assert body.index("01111110") >= 184
    training_hz = frequency_hz(samples, services.AIS_SAMPLING_RATE_HZ)[40:160]
    spectrum = np.abs(np.fft.rfft(training_hz))
    assert np.argmax(spectrum) * services.AIS_SAMPLING_RATE_HZ / 120 == pytest.approx(2400, abs=1)


def test_packet_tones_and_deviation(rng):
    rate = 48e3
    audio = frequency_hz(services.packet(rng, rate), rate)
    assert np.quantile(np.abs(audio), 0.999) == pytest.approx(3000, rel=0.02)
    tone_hz = frequency_hz(hilbert(audio), rate)
    middle = tone_hz[int(rate / 2400) :: int(rate / 1200)]
    low, high = np.median(middle[middle < 1700]), np.median(middle[middle > 1700])
    assert (low, high) == (pytest.approx(1200, rel=0.03), pytest.approx(2200, rel=0.03))
    # flags are 01111110: the tone changes, stays for seven bits, changes
    mark = np.convolve(tone_hz, np.ones(20) / 20, "same")[2000:10000] < 1700
    assert np.median(run_lengths(mark)[run_lengths(mark) > 100]) == pytest.approx(7 * rate / 1200, rel=0.05)


def test_weather_satellite_lines_and_subcarrier(rng):
    rate = 96e3
    audio = frequency_hz(services.automatic_picture_transmission(rng, int(3 * rate), rate), rate)
    assert np.max(np.abs(audio)) == pytest.approx(17e3, rel=0.02)
    spectrum = np.abs(np.fft.rfft(audio))
    assert np.argmax(spectrum) * rate / len(audio) == pytest.approx(2400, abs=1)
    brightness = np.abs(hilbert(audio))
    time_s = np.arange(int(7 / 1040 * rate)) / rate
    pulses = np.exp(2j * np.pi * 1040 * time_s)
    found = np.abs(np.correlate(brightness - brightness.mean(), pulses, "same"))
    peaks = [start + np.argmax(found[start : start + int(rate / 2)]) for start in (0, int(rate / 2), int(rate))]
    assert np.diff(peaks) / rate == pytest.approx([0.5, 0.5], abs=2e-3)


@pytest.mark.parametrize("standard", services.DIGITAL_VOICE_HZ)
def test_digital_voice_has_four_deviations_at_the_symbol_rate(standard, rng):
    symbol_rate_hz, deviation_hz = services.DIGITAL_VOICE_HZ[standard]
    samples = services.digital_voice(rng, 400, standard, 10)
    taps = root_raised_cosine(0.2, 10)
    received = np.convolve(frequency_hz(samples, 10 * symbol_rate_hz), taps, "valid") / np.sqrt(10)
    phase = np.argmin([np.ptp(np.abs(np.abs(received[n::10]) - 2 / 3 * deviation_hz)) for n in range(10)])
    levels = np.rint((received[phase::10] / deviation_hz + 1) * 1.5)
    assert set(levels) == {0, 1, 2, 3}
    assert np.max(np.abs(received[phase::10] - (levels / 1.5 - 1) * deviation_hz)) < 0.06 * deviation_hz


def test_d_star_is_minimum_shift_keyed(rng):
    samples = services.digital_voice(rng, 400, "d-star", 10)
    assert np.max(np.abs(frequency_hz(samples, 48e3))) == pytest.approx(1200, rel=0.01)


@pytest.mark.parametrize(("baud", "shift_hz"), [(45.45, 170), (50, 450), (75, 850)])
def test_radioteletype_shift_and_speed(baud, shift_hz, rng):
    rate = 20e3
    tone_hz = frequency_hz(services.radioteletype(rng, int(10 * rate), rate, baud, shift_hz), rate)
    assert np.quantile(tone_hz, [0.1, 0.9]) == pytest.approx([-shift_hz / 2, shift_hz / 2], rel=0.01)
    runs = run_lengths(tone_hz > 0) * baud / rate
    assert runs.min() == pytest.approx(1, abs=0.03)
    assert np.max(np.abs(2 * runs - np.rint(2 * runs))) < 0.06
    assert 5 < runs.max() < 6.7  # a start bit every 7.5 units ends the mark


def test_car_key_by_pulse_width(rng):
    rate, chip_s = 200e3, 400e-6
    frame = services.keyless_entry(rng, rate, chip_s)
    on = np.abs(frame) > 0.5
    runs = run_lengths(on) / (rate * chip_s)
    assert len(frame) / rate == pytest.approx((23 + 10 + 3 * 66) * chip_s, rel=0.01)
    assert set(np.rint(runs)) == {1, 2, 10}
    assert runs[:21] == pytest.approx(1, abs=0.02)


def test_car_key_by_frequency_shift(rng):
    rate, chip_s = 200e3, 250e-6
    tone_hz = frequency_hz(services.keyless_entry(rng, rate, chip_s, 30e3), rate)
    assert np.median(np.abs(tone_hz)) == pytest.approx(30e3, rel=0.01)
    runs = np.rint(run_lengths(tone_hz > 0) / (rate * chip_s))
    assert np.all(runs[:90] == 1) and set(runs) >= {1, 2} and runs.max() <= 5


def test_radiosonde_frame(rng):
    samples = services.radiosonde(rng)
    assert len(samples) / services.RS41_SAMPLING_RATE_HZ == pytest.approx(0.6)
    tone_hz = frequency_hz(samples, services.RS41_SAMPLING_RATE_HZ)
    assert np.quantile(np.abs(tone_hz), 0.95) == pytest.approx(2400, rel=0.01)
    bits = (tone_hz[5::10] > 0).astype(np.uint8)
    assert np.all(np.diff(bits[:320].astype(int)) != 0)
    assert np.packbits(bits[320:384], bitorder="little").tobytes().hex() == "8635f44093df1a60"


@pytest.mark.parametrize(
    ("mode", "line_s", "sync_s"),
    [("martin 1", 0.446446, 4.862e-3), ("scottie 1", 0.42822, 9e-3), ("pd 120", 0.50848, 20e-3)],
)
def test_slow_scan_television_lines(mode, line_s, sync_s, rng):
    rate = 48e3
    tone_hz = services.sstv_frequency_hz(rng, int(3 * rate), rate, mode)
    sync = tone_hz[int(0.95 * rate) :] == 1200
    starts = np.flatnonzero(np.diff(sync.astype(int)) == 1)
    assert np.diff(starts) / rate == pytest.approx(line_s, abs=1e-4)
    assert run_lengths(sync).min() / rate == pytest.approx(sync_s, abs=1e-4)
    picture = tone_hz[int(0.95 * rate) :][~sync]
    assert picture.min() >= 1500 and picture.max() <= 2300 and picture.std() > 50


def test_slow_scan_television_announces_its_mode(rng):
    tone_hz = services.sstv_frequency_hz(rng, 48000, 48e3, "scottie 1")
    assert np.all(tone_hz[:14000] == 1900) and np.all(tone_hz[16000:28000] == 1900)
    steps = tone_hz[int(0.61 * 48e3) + 720 :: 1440][:10]
    assert steps[0] == steps[9] == 1200
    bits = (steps[1:9] == 1100).astype(int)
    assert sum(bit << n for n, bit in enumerate(bits[:7])) == 60 and bits.sum() % 2 == 0


def test_vor_modulation(rng):
    rate = 60e3
    envelope = np.abs(services.vor(rng, int(rate), rate))
    assert 2 * line_amplitude(envelope, rate, 30) == pytest.approx(0.3, rel=0.03)
    assert 2 * line_amplitude(envelope, rate, 1020) < 0.11
    spectrum = np.fft.fft(envelope)
    keep = np.abs(np.fft.fftfreq(len(envelope), 1 / rate) - 9960) < 1500
    subcarrier = np.fft.ifft(spectrum * keep)[1000:-1000]
    assert 2 * np.mean(np.abs(subcarrier)) == pytest.approx(0.3, rel=0.03)
    tone_hz = frequency_hz(subcarrier, rate) - 9960
    assert (tone_hz.min(), tone_hz.max()) == (pytest.approx(-480, rel=0.05), pytest.approx(480, rel=0.05))
    assert 2 * line_amplitude(tone_hz, rate, 30) == pytest.approx(480, rel=0.1)


def test_airband_is_amplitude_modulated_voice(rng):
    rate = 24e3
    message = services.voice(rng, int(4 * rate), rate)
    samples = services.amplitude_modulation(message, 0.8)
    assert np.all(samples.imag == 0) and 0.2 - 1e-6 <= samples.real.min() < 0.5
    power = np.abs(np.fft.fft(samples - samples.mean())) ** 2
    frequency = np.abs(np.fft.fftfreq(len(samples), 1 / rate))
    assert power[(frequency > 250) & (frequency < 3450)].sum() / power.sum() > 0.95


def test_digital_audio_broadcasting_frame(rng):
    rate = 2.048e6
    samples = ofdm.digital_audio_broadcasting(rng, 3)
    assert len(samples) / rate == pytest.approx(3 * 96e-3)
    silent = np.abs(samples) < 1e-6
    edges = np.flatnonzero(np.diff(silent.astype(int), prepend=0, append=0)).reshape(-1, 2)
    nulls = edges[np.diff(edges)[:, 0] > 100]
    assert np.diff(nulls[:, 0]) / rate == pytest.approx(96e-3)
    assert np.diff(nulls)[:, 0] / rate == pytest.approx(1.297e-3, abs=1e-6)
    on = samples[2656:196608]
    assert np.mean(np.abs(on) ** 2) == pytest.approx(1, rel=0.01)
    guard = abs(np.mean(on[2048:] * np.conj(on[:-2048])))
    assert guard == pytest.approx(504 / 2552, rel=0.1)
    useful = np.fft.fft(on.reshape(76, 2552)[:, 504:], axis=1)
    assert np.abs(useful[:, 1:769]).min() > 100 * np.abs(useful[:, np.r_[0, 769:1280]]).max()
    steps = useful[1:, 1:769] * np.conj(useful[:-1, 1:769])
    assert np.allclose(np.abs(np.angle(steps**4)), np.pi, atol=0.05)  # odd multiples of 45 degrees


SPECIFIED_CLASSES = (
    "ads-b airband ais automatic-picture-transmission bluetooth cellular digital-audio-broadcasting "
    "digital-speech-decoder fm lora morse on-off-keying packet pocsag Radioteletype remote-keyless-entry "
    "RS41-Radiosonde sstv vor wifi"
).split()


def test_classes():
    assert sorted(SPECIFIED_CLASSES) == rfs.LABEL_NAMES == rfs.features()["label"].names


def test_scale_does_not_give_the_class():
    for name, service in rfs.CLASSES.items():
        low, high = service.band_hz
        assert high / low == pytest.approx(4)
        others = [other.band_hz for other_name, other in rfs.CLASSES.items() if other_name != name]
        assert any(other[0] < high and low < other[1] for other in others), name


@pytest.mark.parametrize("name", rfs.LABEL_NAMES)
def test_every_recording_shows_its_service(name):
    for repetition in range(4):
        row = next(rfs.rows(5, "train", rfs.LABEL_NAMES.index(name) + repetition * len(rfs.LABEL_NAMES)))
        image, parameters = row["image"], json.loads(row["parameters"])
        assert rfs.LABEL_NAMES[row["label"]] == name
        assert image.shape == (1, scene.IMAGE_SIZE, scene.IMAGE_SIZE) and np.isfinite(image).all()
        assert parameters["service"] in {function.__name__ for function in rfs.CLASSES[name].traffic}
        assert np.quantile(image, 0.9999) - np.quantile(image, 0.1) > 8


@pytest.mark.parametrize("name", rfs.LABEL_NAMES)
def test_traffic_keeps_inside_its_bandwidth_and_is_on_the_air(name):
    """Nearly all the power of an emitter lies within half as much again as the bandwidth it states."""
    service = rfs.CLASSES[name]
    for function in service.traffic:
        for seed in range(3):
            rng = np.random.default_rng(seed)
            band_hz = np.sqrt(service.band_hz[0] * service.band_hz[1])
            duration_s = 2 ** rfs.LOG2_SAMPLES[0] / band_hz
            emitters = rfs.heard(rng, function, duration_s, band_hz)
            assert max(np.abs(e.samples).max() for e in emitters) > 0.9, name
            for emitter in emitters:
                assert len(emitter.samples) == pytest.approx(duration_s * emitter.sampling_rate_hz, abs=2)
                power = np.abs(np.fft.fft(emitter.samples)) ** 2
                frequency = np.abs(np.fft.fftfreq(len(power), 1 / emitter.sampling_rate_hz))
                if power.sum():
                    inside = power[frequency <= 0.75 * emitter.bandwidth_hz + 3e3 * (name == "on-off-keying")]
                    assert inside.sum() / power.sum() > 0.8, (name, function.__name__)
