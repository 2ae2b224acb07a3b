"""Augmentations: what each keeps and what it changes, in physical units."""

import numpy as np
import pytest

from modeling_mmwfm.augmentation_mmwfm import (
    Augmentations,
    add_noise,
    clock_offset,
    crop_and_resize,
    drop_antennas,
    fading,
    gain,
    mask_span,
    packet_gain,
    rotate_phase,
    shift_carrier,
    shift_frequency,
    shift_time,
)

ALL = Augmentations(
    delay_spread_samples=(0, 3),
    rician_k_db=(0, 10),
    largest_doppler=1e-4,
    time_shift_samples=40,
    carrier_shift=0.5,
    clock_offset_ppm=50,
    phase_rad=np.pi,
    gain_db=(-6, 6),
    snr_db=(0, 30),
    antenna_dropout=0.3,
    packet_gain_db=2,
    time_crop=0.3,
    frequency_crop=0.1,
    time_mask=0.2,
    frequency_mask=0.2,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(*shape) -> np.ndarray:
    """Complex64 of unit power."""
    parts = generator(9).standard_normal((2, *shape)).astype(np.float32)
    return (parts[0] + 1j * parts[1]) / np.float32(np.sqrt(2))


def images(*shape) -> np.ndarray:
    return generator(8).random(shape, dtype=np.float32) + 1


def power_db(values: np.ndarray, axes=(1, 2)) -> np.ndarray:
    return 10 * np.log10(np.mean(np.abs(values.astype(np.complex128)) ** 2, axis=axes))


IQ_FUNCTIONS = {
    "shift_carrier": lambda iq, rng: shift_carrier(iq, rng, 0.5),
    "shift_time": lambda iq, rng: shift_time(iq, rng, 30),
    "shift_time linear": lambda iq, rng: shift_time(iq, rng, 30, cyclic=False),
    "rotate_phase": lambda iq, rng: rotate_phase(iq, rng),
    "gain": lambda iq, rng: gain(iq, rng, (-10, 10)),
    "clock_offset": lambda iq, rng: clock_offset(iq, rng, 100),
    "add_noise": lambda iq, rng: add_noise(iq, rng, (0, 20)),
    "fading": lambda iq, rng: fading(iq, rng, (0, 4), (0, 10), 1e-3),
    "drop_antennas": lambda iq, rng: drop_antennas(iq, rng, 0.5),
}
IMAGE_FUNCTIONS = {
    "crop time": lambda image, rng: crop_and_resize(image, rng, 0.5, 3),
    "crop frequency": lambda image, rng: crop_and_resize(image, rng, 0.5, 2),
    "mask time": lambda image, rng: mask_span(image, rng, 0.5, 3),
    "mask frequency": lambda image, rng: mask_span(image, rng, 0.5, 2),
    "packet_gain": lambda image, rng: packet_gain(image, rng, 3),
}


@pytest.mark.parametrize("name", [*IQ_FUNCTIONS, *IMAGE_FUNCTIONS])
def test_shape_and_type_stay_the_input_is_left_alone_and_each_row_draws_for_itself(name):
    function = IQ_FUNCTIONS.get(name) or IMAGE_FUNCTIONS[name]
    one = noise(1, 3, 200) if name in IQ_FUNCTIONS else images(1, 2, 20, 30)
    values = np.repeat(one, 16, axis=0)
    values.setflags(write=False)
    found, again, other = (function(values, generator(seed)) for seed in (0, 0, 1))
    assert found.shape == values.shape and found.dtype == values.dtype
    np.testing.assert_array_equal(values, np.repeat(one, 16, axis=0))
    np.testing.assert_array_equal(found, again)
    assert not np.array_equal(found, other)
    # What is drawn in whole numbers repeats: antennas, shifts, rows of a mask.
    least = 5 if name.startswith(("drop", "shift_time", "mask")) else 16
    assert len(np.unique(found.reshape(16, -1), axis=0)) >= least


def test_carrier_shift_moves_each_row_by_its_own_frequency_up_to_the_limit():
    samples, tones = 4096, np.ones((200, 2, 4096), np.complex64)
    shifted = shift_carrier(tones, generator(), 0.2)
    np.testing.assert_allclose(np.abs(shifted), 1, atol=1e-6)
    np.testing.assert_array_equal(shifted[:, 0], shifted[:, 1])
    found = np.fft.fftfreq(samples)[np.abs(np.fft.fft(shifted[:, 0])).argmax(1)]
    assert np.abs(found).max() <= 0.2 and found.min() < -0.18 and found.max() > 0.18
    # The phase of late samples is still exact.
    shifts = np.array([0.123456789])
    late = shift_frequency(np.ones((1, 1, 300_000), np.complex64), shifts)[0, 0, -1]
    assert late == pytest.approx(np.exp(2j * np.pi * shifts[0] * 299_999), abs=1e-5)


def test_cyclic_time_shift_keeps_the_spectrum_and_linear_shift_brings_zeros():
    iq = noise(32, 2, 256)
    cyclic, linear = (shift_time(iq, generator(), 50, cyclic) for cyclic in (True, False))
    spectra = [np.abs(np.fft.fft(values)) for values in (iq, cyclic, linear)]
    np.testing.assert_allclose(spectra[1], spectra[0], rtol=1e-3, atol=1e-3)
    assert np.abs(spectra[2] - spectra[0]).max() > 0.5
    delays = []
    for before, after, cut in zip(iq, cyclic, linear):
        matches = [delay for delay in range(-50, 51) if np.array_equal(np.roll(before, delay, -1), after)]
        delays += matches
        gone = cut == 0
        assert len(matches) == 1 and gone.all(0).sum() == abs(matches[0])
        assert gone[:, 0].all() == (matches[0] > 0)
        np.testing.assert_array_equal(cut[~gone], after[~gone])
    assert min(delays) < -30 and max(delays) > 30


def test_phase_and_gain_change_one_number_for_all_antennas():
    iq = noise(500, 3, 64)
    ratio = rotate_phase(iq, generator(), 0.5) / iq
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], iq.shape), atol=1e-5)
    np.testing.assert_allclose(np.abs(ratio), 1, atol=1e-5)
    angle = np.angle(ratio[:, 0, 0])
    assert -0.5 <= angle.min() < -0.45 and 0.45 < angle.max() <= 0.5
    ratio = gain(iq, generator(), (-10, 3)) / iq
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], iq.shape), rtol=1e-5)
    levels = 20 * np.log10(np.abs(ratio[:, 0, 0]))
    assert -10.001 <= levels.min() < -9.8 and 2.8 < levels.max() <= 3.001


@pytest.mark.parametrize("frequency", [0.01, -0.2, 0.4])
def test_clock_offset_scales_frequency_and_time_and_keeps_the_level(frequency):
    samples = 4096
    # A burst that is band-limited and far from the window's ends, so that its periodic continuation is the truth.
    middle, length = 1500.0, 200.0

    def burst(time):
        return np.exp(-0.5 * ((time - middle) / length) ** 2 + 2j * np.pi * frequency * time)

    rows = 8
    iq = np.broadcast_to(burst(np.arange(samples)), (rows, 2, samples)).astype(np.complex64)
    ppm = np.random.default_rng(5).uniform(-1000, 1000, rows)  # as the function draws
    found = clock_offset(iq, generator(5), 1000)
    for row in range(rows):
        np.testing.assert_allclose(found[row, 1], burst((1 + 1e-6 * ppm[row]) * np.arange(samples)), atol=2e-3)
    assert np.abs(found - iq).max() > 0.05


@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_noise_has_the_ratio_asked_for_at_any_level_and_is_white(snr_db):
    iq = noise(4, 2, 8192) * np.array([1e-6, 1e-3, 1, 1e4], np.float32)[:, None, None]
    iq[:, 1] *= 0.1  # a weak antenna
    added = add_noise(iq, generator(), (snr_db, snr_db)) - iq
    np.testing.assert_allclose(power_db(iq) - power_db(added), snr_db, atol=0.2)
    np.testing.assert_allclose(power_db(added[:, 0], 1), power_db(added[:, 1], 1), atol=0.3)
    spectrum = np.mean(np.abs(np.fft.fft(added[2, 0].reshape(32, 256))) ** 2, axis=0)
    assert spectrum.max() / spectrum.min() < 6  # 32 averages of an exponential
    assert abs(np.mean(added[2, 0] ** 2)) < 0.05 * np.mean(np.abs(added[2, 0]) ** 2)  # circular
    assert not add_noise(np.zeros((1, 1, 8), np.complex64), generator(), (0, 0)).any()


def test_noise_ratios_fill_the_range():
    iq = noise(300, 1, 2048)
    ratios = power_db(iq) - power_db(add_noise(iq, generator(), (0, 20)) - iq)
    assert -0.4 < ratios.min() < 1 and 19 < ratios.max() < 20.4


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("doppler", [0.0, 1e-2])
def test_fading_has_unit_mean_power_and_the_delay_spread_drawn(spread, doppler):
    impulse = np.zeros((4000, 2, 64), np.complex64)
    impulse[:, :, 0] = 1
    taps = fading(impulse, generator(), (spread, spread), largest_doppler=doppler)
    profile = np.mean(np.abs(taps.astype(np.complex128)) ** 2, axis=(0, 1))
    assert profile.sum() == pytest.approx(1, abs=0.05)
    delays = np.arange(64)
    mean = (delays * profile).sum() / profile.sum()
    found = np.sqrt(((delays - mean) ** 2 * profile).sum() / profile.sum())
    assert found == pytest.approx(spread, rel=0.06, abs=1e-3)
    # Rayleigh: exponential power. Antennas fade independently.
    first = np.abs(taps[:, :, 0]) ** 2
    assert np.mean(first**2) / np.mean(first) ** 2 == pytest.approx(2, abs=0.25)
    assert abs(np.mean(taps[:, 0, 0] * taps[:, 1, 0].conj())) < 0.05 * np.mean(first)


def test_fading_is_linear_and_causal_and_constant_without_doppler():
    iq = noise(3, 2, 300)
    impulse = np.zeros_like(iq)
    impulse[:, :, 0] = 1
    taps, faded = (fading(values, generator(3), (3, 3), (0, 0)) for values in (impulse, iq))
    for row, antenna in np.ndindex(3, 2):
        expected = np.convolve(iq[row, antenna], taps[row, antenna])[:300]
        np.testing.assert_allclose(faded[row, antenna], expected, atol=1e-4)


def test_a_direct_path_leaves_the_fading_that_its_ratio_says():
    ones = np.ones((20_000, 1, 1), np.complex64)
    found = fading(ones, generator(), (0, 0), (6, 6))[:, 0, 0]
    ratio = 10**0.6
    power = np.abs(found) ** 2
    assert power.mean() == pytest.approx(1, abs=0.02)
    assert power.var() == pytest.approx((1 + 2 * ratio) / (1 + ratio) ** 2, rel=0.05)  # of Rician power


def test_fading_turns_over_time_as_its_doppler_says():
    doppler, lag = 0.01, 20
    ones = np.ones((20_000, 1, lag + 1), np.complex64)
    found = fading(ones, generator(), (0, 0), largest_doppler=doppler)[:, 0]
    np.testing.assert_allclose(np.mean(np.abs(found) ** 2, axis=0), 1, atol=0.03)
    # Mean of cos(2 pi f lag) over f from 0 to the largest.
    expected = np.sinc(2 * doppler * lag)
    assert np.mean(found[:, 0] * found[:, lag].conj()).real == pytest.approx(expected, abs=0.03)
    still = fading(ones[:9], generator(), (0, 0))[:, 0]
    np.testing.assert_allclose(still, np.broadcast_to(still[:, :1], still.shape), rtol=1e-4)


def test_antenna_dropout_silences_whole_antennas_and_never_all():
    iq = noise(4000, 4, 8)
    found = drop_antennas(iq, generator(), 0.4)
    kept = np.abs(found).max(2) > 0
    assert kept.any(1).all()
    np.testing.assert_array_equal(found[kept], iq[kept])
    # One of four always stays; the others go with probability .4.
    assert 1 - kept.mean() == pytest.approx(0.4 * 3 / 4, abs=0.02)
    assert drop_antennas(iq, generator(), 1.0).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(drop_antennas(iq[:, :1], generator(), 0.9), iq[:, :1])


@pytest.mark.parametrize("axis", [2, 3])
def test_crops_stretch_a_part_of_the_axis(axis):
    length = 60
    ramp = np.moveaxis(np.broadcast_to(np.arange(length, dtype=np.float32), (500, 2, 7, length)), 3, axis)
    found = np.moveaxis(crop_and_resize(ramp, generator(), 0.5, axis), axis, 3)
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))
    line = found[:, 0, 0]
    assert line.min() >= 0 and line.max() <= length - 1
    steps = np.diff(line[:, 10:-10], axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-3)
    shares = steps[:, 0]
    assert 0.499 <= shares.min() < 0.52 and 0.98 < shares.max() <= 1.001
    starts = line[:, 30] - 30 * shares
    assert starts.min() >= -0.51 and (starts + length * shares).max() <= length + 0.51 and starts.max() > 15
    np.testing.assert_array_equal(crop_and_resize(ramp, generator(), 0.0, axis), ramp)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_masked_span_holds_the_mean_and_the_rest_is_untouched(axis):
    image = images(300, 2, 40, 40)
    found = mask_span(image, generator(), 0.25, axis)
    changed = np.moveaxis(found != image, axis, 3)
    np.testing.assert_array_equal(changed, np.broadcast_to(changed[:, :1, :1], changed.shape))
    sizes = changed[:, 0, 0].sum(1)
    assert sizes.max() == 10 and sizes.min() == 0 and 4.5 < sizes.mean() < 5.5
    assert (np.abs(np.diff(changed[:, 0, 0].astype(int), axis=1)).sum(1) <= 2).all()  # one span
    means = np.broadcast_to(image.mean((2, 3), keepdims=True), image.shape)
    np.testing.assert_array_equal(found[found != image], means[found != image])


def test_packet_gain_is_one_number_for_each_packet():
    image = images(20, 3, 30, 200)
    ratio = packet_gain(image, generator(), 2.0) / image
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-5)
    levels = 20 * np.log10(ratio[:, 0, 0].astype(np.float64))
    assert levels.std() == pytest.approx(2, rel=0.05) and abs(levels.mean()) < 0.15
    assert (levels.std(1) > 1.5).all()


def test_all_together_act_on_the_columns_of_a_batch_and_nothing_else():
    parts = noise(6, 4, 512)
    columns = {
        "iq": np.stack([parts.real, parts.imag], axis=-1),
        "image": images(6, 1, 32, 48),
        "label": [0, 1, 2, 3, 4, 5],
    }
    copies = {name: np.copy(columns[name]) for name in ("iq", "image")}
    found, again = ALL(columns, generator()), ALL(columns, generator())
    assert found["label"] is columns["label"]
    for name, before in copies.items():
        assert found[name].shape == before.shape and found[name].dtype == np.float32
        assert np.isfinite(found[name]).all() and not np.array_equal(found[name], before)
        np.testing.assert_array_equal(columns[name], before)
        np.testing.assert_array_equal(found[name], again[name])
    off = Augmentations()(columns, generator())
    for name, before in copies.items():
        np.testing.assert_array_equal(off[name], before)
    # What is off draws nothing, so that turning it on changes only itself.
    shift = Augmentations(carrier_shift=0.1, gain_db=None, antenna_dropout=0)(columns, generator())["iq"]
    expected = shift_carrier(parts, generator(), 0.1)
    np.testing.assert_array_equal(shift[..., 0] + 1j * shift[..., 1], expected)


def test_an_image_alone_and_iq_alone_are_taken():
    assert set(ALL({"image": images(2, 3, 16, 16)}, generator())) == {"image"}
    assert ALL({"iq": np.ones((2, 1, 64, 2), np.float32)}, generator())["iq"].shape == (2, 1, 64, 2)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"carrier_shift": 0.6}, "`carrier_shift`: expected a finite number from 0 to 0.5, found 0.6"),
        ({"antenna_dropout": -0.1}, "`antenna_dropout`: .* from 0 to 1"),
        ({"time_crop": "0.5"}, "`time_crop`: .*found '0.5'"),
        ({"time_shift_samples": 1.5}, "`time_shift_samples`: expected a whole number"),
        ({"largest_doppler": float("nan")}, "`largest_doppler`"),
        ({"packet_gain_db": float("inf")}, "`packet_gain_db`"),
        ({"snr_db": (20, 0)}, r"`snr_db`: expected two finite numbers in ascending order.*found \(20, 0\)"),
        ({"snr_db": 20}, "`snr_db`: expected two finite numbers"),
        ({"gain_db": (0, float("inf"))}, "`gain_db`"),
        ({"delay_spread_samples": (-1, 2)}, "`delay_spread_samples`: .* from 0 to inf"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Augmentations(**arguments)


def test_settings_of_a_recipe_are_taken():
    assert Augmentations(snr_db=[0, 20], time_mask=None, phase_rad=3).snr_db == [0, 20]
