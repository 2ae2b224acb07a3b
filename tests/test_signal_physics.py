"""Resampling and spectrograms keep frequencies, levels and durations."""

import numpy as np
import pytest
import torch

from modeling_mmwfm import MMWFMFeatureExtractor, MMWFMImageProcessor, MMWFMProcessor


def tone(frequency_hz: float, sampling_rate_hz: float, samples: int, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.exp(2j * np.pi * frequency_hz / sampling_rate_hz * np.arange(samples))).astype(np.complex64)


def resample(x: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    extractor = MMWFMFeatureExtractor(sampling_rate_hz=to_hz, normalization="none")
    batch = extractor(x, sampling_rate_hz=from_hz, resample=True)
    assert batch["iq_attention_mask"].all()
    values = batch["iq_values"][0]
    return (values[:, 0] + 1j * values[:, 1]).numpy()


RATES = [(10e6, 7.69e6), (5e6, 7.69e6), (20e6, 2.5e6), (1e6, 4e6), (30.72e6, 25e6)]


@pytest.mark.parametrize("from_hz, to_hz", RATES)
@pytest.mark.parametrize("place", [-0.85, -0.1, 0.4, 0.85])
def test_a_tone_keeps_its_frequency_phase_and_amplitude(from_hz, to_hz, place):
    frequency = place * min(from_hz, to_hz) / 2
    x = tone(frequency, from_hz, 8000, amplitude=0.7)
    y = resample(x, from_hz, to_hz)[0]
    assert len(y) == int(np.ceil(8000 * to_hz / from_hz - 1e-9))
    edge = len(y) // 8  # the filter runs in and out over the ends
    expected = tone(frequency, to_hz, len(y), amplitude=0.7)
    assert np.abs(y - expected)[edge:-edge].max() < 0.007


@pytest.mark.parametrize("from_hz, to_hz", [(10e6, 5e6), (20e6, 2.5e6), (10e6, 7.69e6)])
def test_what_the_new_rate_cannot_hold_is_suppressed_by_more_than_40_db(from_hz, to_hz):
    for place in (1.05, 1.2) if from_hz / to_hz < 1.5 else (1.05, 1.5, 1.9):
        x = tone(place * to_hz / 2, from_hz, 16000)
        y = resample(x, from_hz, to_hz)[0]
        inner = y[len(y) // 8 : -len(y) // 8]
        assert 10 * np.log10(np.square(np.abs(inner)).mean()) < -40


def test_interpolation_leaves_no_images_of_the_spectrum():
    y = resample(tone(0.3e6, 1e6, 4096), 1e6, 4e6)[0]
    inner = y[len(y) // 8 : -len(y) // 8]
    spectrum = np.abs(np.fft.fft(inner * np.hanning(len(inner)))) ** 2
    frequency = np.fft.fftfreq(len(inner), 1 / 4e6)
    near = np.abs(frequency - 0.3e6) < 2e4
    assert 10 * np.log10(spectrum[~near].sum() / spectrum[near].sum()) < -60


def test_antennas_are_resampled_alike_and_samples_by_themselves():
    x = np.stack([tone(1e5, 1e6, 900), 2 * tone(-2e5, 1e6, 900)])
    both = resample(x, 1e6, 1.5e6)
    assert both.shape == (2, 1350)
    for antenna in range(2):
        np.testing.assert_allclose(both[antenna], resample(x[antenna], 1e6, 1.5e6)[0], atol=1e-6)


def test_another_sampling_rate_is_refused_and_the_fitted_one_changes_nothing():
    extractor, x = MMWFMFeatureExtractor(sampling_rate_hz=7.69e6, normalization="none"), tone(1e6, 7.69e6, 64)
    with pytest.raises(ValueError, match=r"expected 7.69e\+06.*fitted for, found 5e\+06; `resample=True` converts"):
        extractor(x, sampling_rate_hz=5e6)
    with pytest.raises(ValueError, match="`resample`: expected a fitted and a given sampling rate.*found .*None"):
        extractor(x, resample=True)
    for settings in ({"sampling_rate_hz": 7.69e6}, {"sampling_rate_hz": 7.69e6, "resample": True}, {}):
        values = extractor(x, **settings)["iq_values"][0, 0]
        np.testing.assert_array_equal(values.numpy(), np.stack([x.real, x.imag]))


def test_a_ratio_of_rates_beyond_reason_is_refused():
    with pytest.raises(ValueError, match="sampling_rate_hz|resample"):
        resample(tone(1.0, 1e7, 5000), 1e7, 1e3)


SPECTROGRAM = MMWFMFeatureExtractor(normalization="none", n_fft=256, hop_length=64)


@pytest.mark.parametrize("frequency_hz", [-5e5, -250e3, 0.0, 125e3, 375e3])
@pytest.mark.parametrize("amplitude", [1.0, 1e-3])
def test_a_tone_lies_in_its_row_at_its_level(frequency_hz, amplitude):
    image = SPECTROGRAM.spectrogram(tone(frequency_hz, 1e6, 2048, amplitude), sampling_rate_hz=1e6)
    assert image.shape == (1, 1, 256, 1 + (2048 - 256) // 64) and image.dtype == torch.float32
    row = round((frequency_hz / 1e6 + 0.5) * 256)  # rows run from -fs/2 up
    assert (image[0, 0].argmax(0) == row).all()
    # a tone on a row gathers the window's sum, n_fft / 2 for Hann
    expected_db = 20 * np.log10(amplitude * 128)
    torch.testing.assert_close(image[0, 0, row], torch.full_like(image[0, 0, row], expected_db), atol=0.05, rtol=0)
    far = image[0, 0, (row + 128) % 256]
    assert (far < expected_db - 60).all()


def test_columns_are_time_and_silence_lies_on_the_floor():
    x = np.concatenate([np.zeros(1024, np.complex64), tone(125e3, 1e6, 1024)])
    image = SPECTROGRAM.spectrogram(x)[0, 0]
    assert torch.equal(image[:, 0], torch.full((256,), -120.0))
    assert image[160, 0] < -100 and image[160, -1] > 40


def test_the_power_of_antennas_is_averaged():
    quiet, loud = tone(125e3, 1e6, 1024), 10 * tone(125e3, 1e6, 1024)
    image = SPECTROGRAM.spectrogram(np.stack([quiet, loud]))
    expected_db = 10 * np.log10((1 + 100) / 2 * 128**2)
    assert image.shape[:2] == (1, 1)
    assert image[0, 0, 160].mean().item() == pytest.approx(expected_db, abs=0.05)


def test_unequal_recordings_give_a_list_in_order_and_short_ones_are_padded():
    samples = [tone(125e3, 1e6, 2048), tone(-125e3, 1e6, 100), tone(0, 1e6, 2048)]
    found = SPECTROGRAM.spectrogram(samples)
    assert [image.shape for image in found] == [(1, 256, 29), (1, 256, 1), (1, 256, 29)]
    assert [image[0].mean(1).argmax().item() for image in found] == [160, 96, 128]
    equal = SPECTROGRAM.spectrogram([samples[1], samples[1][:50]])  # both fill one frame
    assert equal.shape == (2, 1, 256, 1)


def test_views_choose_what_becomes_of_a_recording():
    processor = MMWFMProcessor(SPECTROGRAM, MMWFMImageProcessor(normalization="none", keep_size=True))
    x = np.stack([tone(125e3, 1e6, 512)] * 3)[:, None]
    both = processor(iq=x, views=("iq", "spectrogram"), sampling_rate_hz=1e6)
    assert set(both) == {"iq_values", "iq_attention_mask", "pixel_values"}
    assert both["iq_values"].shape == (3, 1, 2, 512) and both["pixel_values"].shape == (3, 1, 256, 5)
    assert torch.equal(both["pixel_values"], processor.spectrogram(x, sampling_rate_hz=1e6))
    assert set(processor(iq=x, views=("spectrogram",))) == {"pixel_values"}
    assert set(processor(iq=x)) == {"iq_values", "iq_attention_mask"}
    assert set(processor(iq=x, images=np.zeros((3, 1, 8, 8)))) == set(both)
    resized = MMWFMProcessor(SPECTROGRAM)(iq=[x[0, 0], x[0, 0, :400]], views=["iq", "spectrogram"])
    assert resized["pixel_values"].shape == (2, 1, 224, 224) and resized["iq_values"].shape == (2, 1, 2, 512)
