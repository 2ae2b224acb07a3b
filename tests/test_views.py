"""Views of IQ and CSI: what each takes away, what it leaves, and that a saved processor does the same elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_mmwfm import MMWFMFeatureExtractor, MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm.views_mmwfm import carrier_offset, doppler_image, fill_unused, resample_polyphase, shift_frequency

PACKAGE = Path(__file__).parents[1] / "modeling_mmwfm"


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(*shape, seed: int = 0) -> np.ndarray:
    """Complex64 of unit power."""
    parts = generator(seed).standard_normal((2, *shape)).astype(np.float32)
    return (parts[0] + 1j * parts[1]) / np.float32(np.sqrt(2))


def tones(frequencies, samples: int, antennas: int = 1) -> np.ndarray:
    """(B, A, T): one line in each row, of another phase at each antenna."""
    phases = np.exp(2j * np.pi * generator(1).random((len(frequencies), antennas, 1)))
    return phases * np.exp(2j * np.pi * np.multiply.outer(frequencies, np.arange(samples)))[:, None]


def keyed(rows: int, samples: int = 4096, snr_db: float = 20) -> np.ndarray:
    """On-off keyed carriers at 0 Hz of a random phase, with noise."""
    rng = generator(2)
    symbols = rng.integers(0, 2, (rows, samples // 64 + 1)).repeat(64, axis=1)[:, :samples]
    carrier = np.exp(2j * np.pi * rng.random((rows, 1)))
    return (symbols * carrier + 10 ** (-snr_db / 20) * noise(rows, samples, seed=3))[:, None]


def processor(image_processor=None, **settings) -> MMWFMProcessor:
    settings = {"normalization": "none"} | settings
    return MMWFMProcessor(
        MMWFMFeatureExtractor(**settings), image_processor or MMWFMImageProcessor(normalization="none")
    )


def as_complex(iq_values: torch.Tensor) -> np.ndarray:
    return (iq_values[:, :, 0] + 1j * iq_values[:, :, 1]).numpy()


CENTERING = processor(center_carrier=True)


@pytest.mark.parametrize("samples", [64, 1000, 4096])
@pytest.mark.parametrize("snr_db", [10, 80])
def test_a_line_at_any_offset_ends_at_0_hz_within_a_bin(samples, snr_db):
    frequencies = np.concatenate([generator().uniform(-0.5, 0.5, 60), [0, -0.5, 0.4999, 0.5 / samples, 0.25]])
    iq = tones(frequencies, samples, 2) + 10 ** (-snr_db / 20) * noise(len(frequencies), 2, samples)
    batch = CENTERING(iq=iq, return_carrier_offset=True)
    error = batch["carrier_offset_hz"].numpy() - frequencies
    assert np.abs(error - np.round(error)).max() * samples < 1
    spectrum = np.abs(np.fft.fft(as_complex(batch["iq_values"]))) ** 2
    place = spectrum.sum(1).argmax(1)
    assert np.minimum(place, samples - place).max() <= 1


def test_the_offset_is_what_was_removed_and_all_antennas_turn_together():
    iq = noise(5, 3, 500)
    batch = CENTERING(iq=iq, return_carrier_offset=True)
    offsets = batch["carrier_offset_hz"].numpy().astype(np.float64)
    turned = iq * np.exp(-2j * np.pi * np.multiply.outer(offsets, np.arange(500)))[:, None]
    np.testing.assert_allclose(as_complex(batch["iq_values"]), turned, atol=2e-4)
    assert len(set(offsets)) == 5 and np.abs(offsets).max() <= 0.5


def test_the_band_is_the_strongest_of_all_antennas_together_not_the_strongest_line():
    samples = 4096
    wide = np.fft.ifft(np.where(np.abs(np.arange(samples) - 1000) < 32, np.fft.fft(noise(2, samples)), 0))
    line = tones([-0.3], samples)[:, 0] * np.sqrt(np.mean(np.abs(wide) ** 2) / 5)  # less power, the highest bin
    assert np.abs(np.fft.fft(wide + line)).argmax(1).tolist() == [2867, 2867]
    found = carrier_offset(torch.from_numpy((wide + line)[:, None].astype(np.complex64)))
    np.testing.assert_allclose(found.numpy() * samples, 1000, atol=8)
    # Antenna 1 alone would win by a line at .1; with two antennas at .3, those do.
    antennas = np.concatenate([1.2 * tones([0.1], 512), tones([0.3], 512), tones([0.3], 512)], axis=1)
    assert carrier_offset(torch.from_numpy(antennas.astype(np.complex64))).item() == pytest.approx(0.3, abs=1 / 512)


def band_limited(rows: int, samples: int = 4096) -> np.ndarray:
    """Noise-like signals in 30 % of the band: no line, and a flat spectrum."""
    spectrum = np.fft.fft(noise(rows, 1, samples, seed=3))
    return np.fft.ifft(spectrum * (np.abs(np.fft.fftfreq(samples)) < 0.15))


@pytest.mark.parametrize("normalization", ["none", "sample"])
@pytest.mark.parametrize("signals", [keyed, band_limited])
def test_features_do_not_change_with_a_further_shift(normalization, signals):
    part = processor(center_carrier=True, normalization=normalization)
    iq = signals(24)
    expected = as_complex(part(iq=iq)["iq_values"])
    steps = np.arange(iq.shape[2])
    shifts = generator(5).uniform(-0.5, 0.5, (24, 1))
    moved = iq * np.exp(2j * np.pi * shifts * steps)[:, None]
    difference = np.abs(as_complex(part(iq=moved)["iq_values"]) - expected)
    assert np.sqrt(np.mean(difference**2, axis=(1, 2))).max() < 0.02
    plain = processor(normalization=normalization)
    assert np.abs(as_complex(plain(iq=moved)["iq_values"]) - expected).mean() > 0.2


def test_offsets_come_in_hz_where_a_rate_is_known_and_in_cycles_per_sample_else():
    iq = tones([0.125, -0.25], 512)
    for part, arguments, rate in (
        (CENTERING, {}, 1),
        (CENTERING, {"sampling_rate_hz": 2e6}, 2e6),
        (processor(center_carrier=True, sampling_rate_hz=1e6), {"sampling_rate_hz": 1e6}, 1e6),
        (processor(center_carrier=True, sampling_rate_hz=1e6), {}, 1e6),
    ):
        batch = part(iq=iq, return_carrier_offset=True, **arguments)
        assert batch["carrier_offset_hz"].dtype == torch.float32
        np.testing.assert_allclose(batch["carrier_offset_hz"], [0.125 * rate, -0.25 * rate], atol=1e-3 * rate)
    array = CENTERING(iq=iq, return_carrier_offset=True, return_tensors="np")["carrier_offset_hz"]
    assert isinstance(array, np.ndarray) and array.shape == (2,)


def test_the_offset_is_returned_only_on_request_and_only_where_there_is_one():
    iq = noise(2, 1, 64)
    assert set(CENTERING(iq=iq)) == {"iq_values", "iq_attention_mask"}
    with pytest.raises(ValueError, match="`return_carrier_offset`: expected a processor with `center_carrier`"):
        processor()(iq=iq, return_carrier_offset=True)
    for arguments in ({"iq": iq, "views": ("spectrogram",)}, {"images": np.ones((1, 8, 8))}):
        with pytest.raises(ValueError, match="`return_carrier_offset`: expected `iq` and its 'iq' view, found none"):
            CENTERING(return_carrier_offset=True, **arguments)


def test_a_padded_batch_is_centred_sample_by_sample_and_padding_stays_zero():
    samples = [tones([0.1], 300)[0], tones([-0.2], 500, 2)[0], tones([0.3], 300)[0], tones([0.4], 7)[0]]
    batch = CENTERING(iq=samples, return_carrier_offset=True)
    np.testing.assert_allclose(batch["carrier_offset_hz"][:3], [0.1, -0.2, 0.3], atol=2e-3)
    mask = batch["iq_attention_mask"]
    assert (batch["iq_values"] * (1 - mask)[:, :, None]).abs().max() == 0
    for row, sample in enumerate(samples):
        alone = CENTERING(iq=sample)["iq_values"][0]
        torch.testing.assert_close(batch["iq_values"][row, : len(sample), :, : sample.shape[1]], alone)


def test_silence_stays_silent_and_very_short_or_loud_samples_are_taken():
    batch = CENTERING(iq=np.zeros((1, 2, 64), np.complex64), return_carrier_offset=True)
    assert batch["carrier_offset_hz"].item() == 0 and not batch["iq_values"].any()
    for samples in (1, 2, 3, 5):
        assert CENTERING(iq=noise(samples))["iq_values"].isfinite().all()
    for level in (1e-18, 1e15):
        offset = CENTERING(iq=level * tones([0.2], 256), return_carrier_offset=True)["carrier_offset_hz"]
        assert offset.item() == pytest.approx(0.2, abs=1e-3)


def test_centring_follows_resampling():
    part = processor(center_carrier=True, sampling_rate_hz=1e6)
    # The line at 0.8 MHz is the stronger one, but outside of what the model's rate holds.
    iq = tones([0.1e6 / 2e6], 8192) + 3 * tones([0.8e6 / 2e6], 8192)
    batch = part(iq=iq, sampling_rate_hz=2e6, resample=True, return_carrier_offset=True)
    assert batch["carrier_offset_hz"].item() == pytest.approx(0.1e6, abs=1e6 / 4096)
    middle = as_complex(batch["iq_values"])[0, 0, 200:-200]
    np.testing.assert_allclose(np.abs(middle), 1, atol=0.02)
    assert np.abs(np.angle(middle[1:] / middle[:-1])).max() < 0.02


def test_centring_comes_before_normalisation_and_its_statistics():
    levels = generator().uniform(0.8, 1.2, (20, 1))
    lines = levels * np.exp(2j * np.pi * generator(1).uniform(-0.5, 0.5, (20, 1)) * np.arange(512))
    rows = [{"iq": iq.astype(np.complex64)} for iq in lines]
    fitted = processor(center_carrier=True, normalization="dataset").fit(rows).feature_extractor
    plain = processor(normalization="dataset").fit(rows).feature_extractor
    assert fitted.iq_mean[0] == pytest.approx(levels.mean(), abs=0.1) and abs(plain.iq_mean[0]) < 0.1
    values = fitted(lines[:, None])["iq_values"].double()
    torch.testing.assert_close(values.mean((0, 1, 3)), torch.zeros(2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std((0, 1, 3)), torch.ones(2).double(), atol=1e-3, rtol=0)


def test_the_phase_of_a_long_recording_is_exact():
    offset = torch.tensor([0.123456789], dtype=torch.float64)
    turned = shift_frequency(torch.ones(1, 1, 2_000_000, dtype=torch.complex64), offset)[0, 0, -1].item()
    assert turned == pytest.approx(np.exp(-2j * np.pi * 0.123456789 * 1_999_999), abs=1e-4)


@pytest.mark.parametrize("setting", ["n_fft", "hop_length"])
def test_a_spectrogram_without_frames_is_refused(setting):
    with pytest.raises(ValueError, match=f"`{setting}`: expected at least 1, found 0"):
        MMWFMFeatureExtractor(**{setting: 0}).spectrogram(np.ones(64, np.complex64))


@pytest.mark.parametrize("n_fft", [64, 33])
def test_a_spectrogram_is_rolled_so_that_its_peak_is_in_the_middle_row(n_fft):
    frequencies = np.array([0.3, -0.41, 0.0, 0.1])
    iq = tones(frequencies, 2048, 2) * (np.arange(2048) > 1500) + 0.01 * noise(4, 2, 2048)  # in a part of the time
    settings = {"n_fft": n_fft, "hop_length": 16}
    plain, centered = (processor(center_peak=peak, **settings).spectrogram(iq) for peak in (False, True))
    assert centered.shape == plain.shape
    assert (10 ** (centered / 10)).mean((1, 3)).argmax(1).tolist() == [n_fft // 2] * 4
    for row, frequency in enumerate(frequencies):
        shift = int(np.round(frequency * n_fft))
        assert torch.equal(centered[row], plain[row].roll(-shift, dims=1))
    moved = iq * np.exp(2j * np.pi * 5 / n_fft * np.arange(2048))
    again = processor(center_peak=True, **settings).spectrogram(moved)
    assert (again - centered).abs().median() < 1e-3  # a shift by whole rows
    # Carrier and peak are centred independently of each other.
    assert torch.equal(processor(center_carrier=True, **settings).spectrogram(iq), plain)


def amplitudes(rows: int = 3, antennas: int = 2, subcarriers: int = 56, packets: int = 240) -> np.ndarray:
    """A static channel with a path whose length changes, in the way of a moving body."""
    rng = generator(4)
    static = 5 + 2 * rng.random((rows, antennas, subcarriers, 1))
    doppler = rng.uniform(0.1, 0.3, (rows, 1, 1, 1))
    phase = 2 * np.pi * (doppler * np.arange(packets) + rng.random((rows, antennas, subcarriers, 1)))
    return np.abs(static + np.exp(1j * phase) + 0.01 * noise(rows, antennas, subcarriers, packets)).astype(np.float32)


def view(images, rate: float | None = None, resample: bool = False, **settings) -> np.ndarray:
    settings = {"normalization": "none", "keep_size": "doppler" not in settings} | settings
    return MMWFMImageProcessor(**settings)(images, rate, resample)["pixel_values"].numpy()


GAIN_FREE = {"csi_to_db": True, "remove_packet_mean": True}


def test_complex_csi_and_its_amplitude_become_the_same_decibels():
    csi = noise(2, 3, 8, 9)
    csi[0, 0, 0, 0] = 0
    expected = 20 * np.log10(np.abs(csi) + 1e-6)
    for form in (csi, np.abs(csi), torch.from_numpy(csi), list(csi), csi.astype(np.complex128)):
        found = view(form, csi_to_db=True)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="of real values, found torch.complex64"):
        view(csi)
    for bad, match in ((csi[0, 0], r"\(B, C, H, W\) of numbers"), (csi + np.inf, "expected finite values")):
        with pytest.raises(ValueError, match=match):
            view(bad, csi_to_db=True)


def test_decibels_are_not_taken_for_amplitudes_but_a_few_wrong_signs_are():
    with pytest.raises(ValueError, match="`csi_to_db`: expected amplitudes, found 100% negative values"):
        view(-np.ones((1, 8, 9)), csi_to_db=True)
    values = np.full((1, 10, 50), 10.0)
    values[0, 0, 0] = -10
    np.testing.assert_allclose(view(values, csi_to_db=True), 20, atol=1e-4)


def test_the_packet_mean_takes_the_gain_control_away_and_the_time_mean_the_static_channel():
    csi = amplitudes()
    rng = generator(6)
    gains = rng.uniform(0.1, 10, (3, 2, 1, 240)).astype(np.float32)  # of each packet and antenna
    static = rng.uniform(0.1, 10, (3, 2, 56, 1)).astype(np.float32)
    free = view(csi, **GAIN_FREE)
    np.testing.assert_allclose(view(csi * gains, **GAIN_FREE), free, atol=1e-3)
    np.testing.assert_allclose(free.mean(2), 0, atol=1e-4)
    moving = view(csi, csi_to_db=True, remove_time_mean=True)
    np.testing.assert_allclose(view(csi * static, csi_to_db=True, remove_time_mean=True), moving, atol=1e-3)
    np.testing.assert_allclose(moving.mean(3), 0, atol=1e-4)
    both = {**GAIN_FREE, "remove_time_mean": True}
    np.testing.assert_allclose(view(csi * static * gains, **both), view(csi, **both), atol=1e-3)
    assert np.abs(free).max() > 1 and np.abs(moving).max() > 1
    # Each antenna has its own gain, so nothing crosses over from the other.
    np.testing.assert_allclose(view(csi[:, :1], **both), view(csi, **both)[:, :1], atol=1e-5)


def reference_doppler(values: np.ndarray, width: int, num_groups: int, window: int, bins: int) -> np.ndarray:
    """The definition, one number after another."""
    subcarriers, packets = values.shape
    hop = max(1, packets // width)
    starts = range(0, packets - window + 1, hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs([np.fft.fft(hann * values[:, start : start + window])[:, :bins] for start in starts]) ** 2
    owner = np.array([subcarrier * num_groups // subcarriers for subcarrier in range(subcarriers)])
    rows = [power[:, owner == group, k].mean(1) for group in range(num_groups) for k in range(bins)]
    return 10 * np.log10(np.array(rows) + 1e-2)


@pytest.mark.parametrize(
    "subcarriers, packets, width, num_groups, window, bins",
    [(56, 240, 224, 14, 32, 16), (52, 500, 64, 14, 32, 16), (30, 41, 224, 4, 16, 9), (5, 32, 8, 5, 32, 2)],
)
def test_the_doppler_image_is_what_its_definition_says(subcarriers, packets, width, num_groups, window, bins):
    values = generator().standard_normal((2, 3, subcarriers, packets)).astype(np.float32)
    found = doppler_image(torch.from_numpy(values), width, num_groups, window, bins)
    for row, antenna in np.ndindex(2, 3):
        expected = reference_doppler(values[row, antenna].astype(np.float64), width, num_groups, window, bins)
        np.testing.assert_allclose(found[row, antenna], expected, atol=1e-2)
    assert found.shape[2] == num_groups * bins


def test_parts_of_a_large_batch_are_put_together_in_order():
    values = torch.from_numpy(generator().standard_normal((40, 3, 114, 300)).astype(np.float32))
    together = doppler_image(values, 224, 14, 32, 16)
    for row in (0, 17, 39):
        torch.testing.assert_close(together[row : row + 1], doppler_image(values[row : row + 1], 224, 14, 32, 16))


def test_a_moving_path_lights_its_bin_its_group_and_its_time():
    packets = 448
    quiet = np.ones((1, 1, 56, packets))
    # Subcarriers 20 .. 23 are group 5 of 14; 4 cycles in 32 packets are bin 4; the second half moves.
    quiet[0, 0, 20:24, 224:] += 0.1 * np.cos(2 * np.pi * 4 / 32 * np.arange(224))
    image = view(quiet, **GAIN_FREE, doppler={})
    assert image.shape == (1, 1, 224, 224)
    power = 10 ** (image[0, 0] / 10)
    assert power[:, 130:].mean(1).argmax() == 5 * 16 + 4
    assert power[5 * 16 + 4, 130:].mean() > 100 * power[5 * 16 + 4, :90].mean()
    others = np.delete(power.reshape(14, 16, 224), 5, axis=0)
    assert others.max() < 0.02 * power[5 * 16 + 4].max()


def test_the_doppler_image_knows_neither_gain_control_nor_static_channel():
    csi = amplitudes()
    rng = generator(7)
    gains = rng.uniform(0.1, 10, (3, 2, 1, 240)).astype(np.float32)
    # Static channels that differ between subcarriers, but whose sum over them the packet mean does not change.
    static = rng.uniform(0.1, 10, (3, 2, 56, 1)).astype(np.float32)
    doppler = {"num_groups": 14, "window": 32, "bins": 16}
    plain = view(csi, **GAIN_FREE, doppler=doppler)
    np.testing.assert_allclose(view(csi * gains, **GAIN_FREE, doppler=doppler), plain, atol=0.05)
    by_bin = np.abs(view(csi * static * gains, **GAIN_FREE, doppler=doppler) - plain).reshape(3, 2, 14, 16, -1)
    assert by_bin[:, :, :, 2:].max() < 0.05 and by_bin[:, :, :, :2].max() > 5  # the Hann window's bins of 0 Hz
    settings = {**GAIN_FREE, "remove_time_mean": True, "doppler": doppler}
    np.testing.assert_allclose(view(csi * static * gains, **settings), view(csi, **settings), atol=0.05)
    # And it does see the motion, which is gone when the packets come in another order.
    shuffled = view(csi[..., rng.permutation(240)], **settings)
    assert np.abs(shuffled - view(csi, **settings)).mean() > 2


def test_unequal_lengths_become_one_width_and_antennas_stay_channels():
    samples = [amplitudes(1, 3, 52, packets)[0] for packets in (100, 700, 100)]
    image = view(samples, **GAIN_FREE, doppler={"num_groups": 4}, size={"height": 64, "width": 96})
    assert image.shape == (3, 3, 64, 96)
    alone = view(samples[1], **GAIN_FREE, doppler={"num_groups": 4}, size={"height": 64, "width": 96})
    np.testing.assert_allclose(image[1:2], alone, atol=1e-4)


def test_fit_measures_the_view():
    csi = 30 * amplitudes(8)
    part = MMWFMProcessor(
        image_processor=MMWFMImageProcessor(normalization="dataset", doppler={"num_groups": 4}, **GAIN_FREE)
    )
    part.fit([{"image": image} for image in csi])
    low, high = part.image_processor.image_min, part.image_processor.image_max
    assert low == pytest.approx(-20, abs=1.5) and high < 60  # the floor of 1e-2
    pixels = part(images=csi)["pixel_values"].double()
    assert pixels.shape == (8, 2, 64, 224)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(2).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.ones(2).double(), atol=1e-3, rtol=0)


def test_a_view_of_csi_and_the_spectrogram_view_exclude_each_other():
    for settings in (GAIN_FREE, {"remove_time_mean": True}, {"doppler": {}}):
        part = processor(MMWFMImageProcessor(**settings))
        with pytest.raises(ValueError, match="without views of CSI for the 'spectrogram' view"):
            part(iq=noise(2048), views=("iq", "spectrogram"))


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"doppler": {"groups": 3}}, "`doppler`: expected a dict of num_groups, window, bins, found {'groups': 3}"),
        ({"doppler": 14}, "`doppler`: expected a dict"),
        ({"doppler": {"bins": 0}}, "`doppler`: expected a positive whole number for bins, found 0"),
        ({"doppler": {"window": 32.0}}, "positive whole number for window, found 32.0"),
        ({"doppler": {"num_groups": True}}, "positive whole number for num_groups, found True"),
        ({"doppler": {"bins": 18}}, "at most 17 bins of a window of 32 packets, found 18"),
        ({"doppler": {}, "keep_size": True}, "expected a height of 224 = num_groups \\* bins, found `keep_size`"),
        ({"doppler": {"bins": 8}, "size": {"height": 224, "width": 224}}, "a height of 112 .*, found 224"),
        ({"packet_rate_hz": 0}, "`packet_rate_hz`: expected a positive number, found 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        MMWFMImageProcessor(**settings)


def test_few_packets_are_continued_and_few_subcarriers_serve_several_groups():
    csi = amplitudes(2, 1, 56, 20)
    longer = np.concatenate([csi, csi[..., -1:].repeat(12, -1)], -1)
    np.testing.assert_allclose(view(csi, doppler={}), view(longer, doppler={}), atol=1e-4)
    few = amplitudes(2, 1, 7)
    np.testing.assert_allclose(view(few, doppler={}), view(few.repeat(2, 2), doppler={}), atol=1e-4)
    assert view(np.ones((1, 1, 1)), doppler={}).shape == (1, 1, 224, 224)


def test_merged_antennas_are_the_mean_power_of_each():
    csi = amplitudes(2, 3)
    linear = 10 ** (view(csi, doppler={}, size={"height": 224, "width": 209}) / 10) - 1e-2
    merged = view(csi, doppler={}, merge_antennas=True, size={"height": 224, "width": 209})
    assert merged.shape == (2, 1, 224, 209)
    np.testing.assert_allclose(10 ** (merged / 10) - 1e-2, linear.mean(1, keepdims=True), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="`merge_antennas`: expected `doppler`"):
        view(csi, merge_antennas=True)


def test_csi_of_another_packet_rate_is_converted_or_refused():
    def breathing(rate: float, seconds: float = 4.0) -> np.ndarray:
        time = np.arange(round(rate * seconds)) / rate
        phases = np.linspace(0, np.pi, 56)[:, None]
        return (50 + 5 * np.cos(2 * np.pi * 12.5 * time + phases))[None]

    settings = {"packet_rate_hz": 100.0, **GAIN_FREE}
    native = view(breathing(100), 100.0, **settings)
    for rate in (250.0, 80.0, 123.4):
        converted = view(breathing(rate), rate, resample=True, **settings)
        assert abs(converted.shape[-1] - 400) <= 2
        np.testing.assert_allclose(converted[..., 80:320], native[..., 80:320], atol=0.02 if rate != 123.4 else 0.4)
        image = view(breathing(rate), rate, resample=True, doppler={}, **settings)
        power = 10 ** (image[0, 0, :, 40:180] / 10)
        assert set(power.reshape(14, 16, -1).mean(2)[:, 2:].argmax(1) + 2) == {4}  # 12.5 Hz of 100 Hz in 32 packets
    # A constant channel stays constant up to its ends, at any level.
    for rate in (250.0, 80.0):
        np.testing.assert_allclose(view(np.full((1, 4, 90), 1e3), rate, True, packet_rate_hz=100.0), 1e3, rtol=1e-5)
    # Gain control is removed as well as without conversion.
    csi = amplitudes()
    gains = generator(6).uniform(0.1, 10, (3, 2, 1, 240)).astype(np.float32)
    free, loud = (view(values, 150.0, True, **settings) for values in (csi, csi * gains))
    np.testing.assert_allclose(loud, free, atol=1e-3)


def test_packet_rates_follow_the_rules_of_sampling_rates():
    csi = np.ones((1, 8, 64))
    fitted = {"packet_rate_hz": 100.0}
    assert view(csi, 100.4, **fitted).shape == view(csi, **fitted).shape == (1, 1, 8, 64)
    assert view(csi, 250.0).shape == (1, 1, 8, 64)
    for arguments, settings, match in (
        ((101.0,), fitted, "`packet_rate_hz`: expected 100, .* found 101; `resample=True` converts"),
        ((-1.0,), fitted, "`packet_rate_hz`: expected a positive number, found -1"),
        ((None, True), fitted, "expected a fitted and a given packet rate, found 100.0 and None"),
        ((100.0, True), {}, "expected a fitted and a given packet rate, found None and 100.0"),
        ((1e5, True), fitted, "`packet_rate_hz`: .*ratio to 100 Hz is near one of whole numbers up to 200"),
    ):
        with pytest.raises(ValueError, match=match):
            view(csi, *arguments, **settings)


def test_one_call_converts_what_it_knows_the_rate_of():
    part = processor(MMWFMImageProcessor(keep_size=True, packet_rate_hz=100.0), sampling_rate_hz=1e6)
    iq, csi = noise(1, 1, 200), np.ones((1, 8, 64))
    batch = part(iq=iq, images=csi, sampling_rate_hz=2e6, packet_rate_hz=200.0, resample=True)
    assert batch["iq_values"].shape[-1] == 100 and batch["pixel_values"].shape[-1] == 32
    batch = part(iq=iq, images=csi, sampling_rate_hz=2e6, resample=True)
    assert batch["iq_values"].shape[-1] == 100 and batch["pixel_values"].shape[-1] == 64
    batch = part(iq=iq, images=csi, packet_rate_hz=200.0, resample=True)
    assert batch["iq_values"].shape[-1] == 200 and batch["pixel_values"].shape[-1] == 32
    for arguments in ({"iq": iq}, {"images": csi}, {"iq": iq, "images": csi}):
        with pytest.raises(ValueError, match="`resample`: expected a fitted and a given"):
            part(resample=True, **arguments)


def fitted_rate(rows, **settings) -> float | None:
    part = MMWFMProcessor(image_processor=MMWFMImageProcessor(normalization="dataset", **settings))
    return part.fit(rows).image_processor.packet_rate_hz


def test_fit_learns_the_packet_rate_of_csi_and_converts_to_one_that_is_set():
    csi = amplitudes(2)
    for rates, expected in (([100, 100.3], 100.3), ([100, 200], None), ([0, 0], None)):
        for column in ("packet_rate_hz", "sampling_rate_hz"):
            rows = [{"image": image, column: rate} for image, rate in zip(csi, rates)]
            assert fitted_rate(rows, **GAIN_FREE) == expected
    # The sampling rate beside images without a view, such as spectrograms, is none of packets.
    assert fitted_rate([{"image": image, "sampling_rate_hz": 1e6} for image in csi]) is None
    rows = [{"image": image, "packet_rate_hz": rate} for image, rate in zip(csi, (100, 200))]
    part = MMWFMProcessor(image_processor=MMWFMImageProcessor(normalization="dataset", packet_rate_hz=50, **GAIN_FREE))
    part.fit(rows)
    assert part.image_processor.packet_rate_hz == 50
    pixels = torch.cat(
        [part.image_processor(row["image"], row["packet_rate_hz"], True)["pixel_values"] for row in rows]
    )
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0)


def test_real_and_complex_signals_are_resampled_alike():
    signal = torch.from_numpy(noise(2, 3, 400))
    together = resample_polyphase(signal, 3e6, 2e6)
    assert together.shape == (2, 3, 267) and together.dtype == torch.complex64
    torch.testing.assert_close(together.real, resample_polyphase(signal.real, 3e6, 2e6))
    torch.testing.assert_close(together.imag, resample_polyphase(signal.imag, 3e6, 2e6))


# Opens the folder argv[1] without the package, and saves what it makes of the arrays argv[2] to argv[3].
READER = """
import sys
sys.modules["modeling_mmwfm"] = None
import numpy as np, torch, transformers
folder, inputs, result = sys.argv[1:]
arrays = dict(np.load(inputs))
found = {}
for turn in ("first", "again"):
    load = lambda name: getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
    processor = load("AutoProcessor")
    assert "transformers_modules" in type(processor).__module__
    batch = processor(iq=arrays["iq"], images=arrays["csi"], sampling_rate_hz=2e6, packet_rate_hz=200.0, resample=True,
                      return_carrier_offset=True)
    batch["spectrogram"] = processor.spectrogram(arrays["iq"], sampling_rate_hz=1e6)
    batch["csi alone"] = load("AutoImageProcessor")(arrays["csi"], packet_rate_hz=200.0, resample=True)["pixel_values"]
    found[turn] = dict(batch)
    folder += "-again"
    processor.save_pretrained(folder)
torch.save(found, result)
"""


def test_a_saved_processor_takes_the_same_views_in_a_fresh_process(tmp_path):
    part = MMWFMProcessor(
        MMWFMFeatureExtractor(sampling_rate_hz=1e6, center_carrier=True, center_peak=True, n_fft=64, hop_length=16),
        MMWFMImageProcessor(
            normalization="dataset",
            packet_rate_hz=100.0,
            remove_time_mean=True,
            doppler={"num_groups": 4},
            **GAIN_FREE,
        ),
    )
    csi = amplitudes() * np.exp(1j * generator().uniform(0, 6, (3, 2, 56, 240)))
    part.fit([{"image": np.abs(image).astype(np.float32), "packet_rate_hz": 100.0} for image in csi])
    arrays = {"iq": tones([0.1, -0.2, 0.3], 2000).astype(np.complex64), "csi": csi.astype(np.complex64)}
    part.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "views_mmwfm.py").read_text() == (PACKAGE / "views_mmwfm.py").read_text()
    np.savez(tmp_path / "arrays.npz", **arrays)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", READER, *(str(tmp_path / name) for name in ("saved", "arrays.npz", "result.pt"))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rates = {"sampling_rate_hz": 2e6, "packet_rate_hz": 200.0, "resample": True}
    expected = part(iq=arrays["iq"], images=arrays["csi"], return_carrier_offset=True, **rates)
    assert expected["pixel_values"].shape == (3, 2, 64, 224)
    expected["csi alone"] = expected["pixel_values"]
    expected["spectrogram"] = part.spectrogram(arrays["iq"], sampling_rate_hz=1e6)
    for found in torch.load(tmp_path / "result.pt").values():
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


def test_unused_subcarriers_take_their_neighbours_values_and_no_others_change():
    csi = 5 + np.random.default_rng(0).random((2, 2, 12, 40)).astype(np.float32)
    full = csi.copy()
    csi[0, :, [0, 1, 6]] = 0.02  # guards and DC at one end of the band, at the other for the second recording
    csi[1, :, 11] = 0
    filled = fill_unused(torch.from_numpy(csi)).numpy()
    np.testing.assert_array_equal(filled[0][:, [0, 1]], full[0][:, [2, 2]])
    np.testing.assert_array_equal(filled[0][:, 6], full[0][:, 5])
    np.testing.assert_array_equal(filled[1][:, 11], full[1][:, 10])
    np.testing.assert_array_equal(filled[0][:, 2:6], full[0][:, 2:6])
    # A gain control moves all subcarriers but the unused ones: only when filled they tell nothing of it.
    gain = np.exp(np.sin(np.arange(40, dtype=np.float32)))
    moved = csi * gain
    moved[0][:, [0, 1, 6]], moved[1][:, 11] = 0.02, 0
    seen = [view(part, **GAIN_FREE, fill_unused_subcarriers=True) for part in (csi, moved)]
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-3)
    plain = [view(part, **GAIN_FREE) for part in (csi, moved)]
    assert np.abs(plain[1] - plain[0]).max() > 1


def test_unused_subcarriers_are_filled_in_linear_csi_alone():
    with pytest.raises(ValueError, match="`fill_unused_subcarriers`: expected `csi_to_db`"):
        MMWFMImageProcessor(fill_unused_subcarriers=True)
    silent = torch.zeros(1, 1, 8, 9)
    assert torch.equal(fill_unused(silent), silent)
