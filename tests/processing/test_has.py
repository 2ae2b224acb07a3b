"""Human activity from Wi-Fi: delay spread, K factor, Doppler and noise as physics has them, and what can be learned."""

import json

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from processing.simulate import split_samples
from processing.simulation import has

PACKETS_S = np.arange(has.NUM_PACKETS) / has.PACKET_RATE_HZ


def room(number):
    return has.Room(np.random.default_rng(number))


def motion(number, activity, time=PACKETS_S):
    """A person's scatterers in room `number`; the same motion at whatever times."""
    return has.body_motion(np.random.default_rng(100 + number), activity, time, room(number).size_m)


def simulated(split, rooms, rows_per_room):
    rows = [row for number in range(rooms) for row in has.rows(0, split, (number, rows_per_room))]
    return np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows])


@pytest.fixture(scope="module")
def recordings():
    return simulated("train", 24, 6)


@pytest.mark.parametrize("number", range(5))
def test_empty_room_is_the_sum_of_its_paths_with_an_indoor_delay_spread(number):
    this = room(number)
    assert np.all(this.delays_s[1, 1:] > this.delays_s[1, 0])  # nothing comes before the direct path
    distance_m = np.linalg.norm(this.transmitter_m - this.antennas_m, axis=1)
    assert this.delays_s[:, 0] * has.SPEED_OF_LIGHT == pytest.approx(distance_m)
    assert np.abs(this.direct[:, 0]) == pytest.approx(has.WAVELENGTH_M / (4 * np.pi * distance_m))  # Friis
    power = np.abs(this.gains[1]) ** 2 / np.sum(np.abs(this.gains[1]) ** 2)
    variance = np.sum(power * this.delays_s[1] ** 2) - np.sum(power * this.delays_s[1]) ** 2
    assert np.sqrt(variance) == pytest.approx(this.delay_spread_s()) and 20e-9 < this.delay_spread_s() < 40e-9
    for antenna, subcarrier in ((0, 0), (1, 70), (2, 113)):
        frequency_hz = 5.32e9 + has.SUBCARRIERS_HZ[subcarrier]
        paths = this.gains[antenna] * np.exp(-2j * np.pi * frequency_hz * this.delays_s[antenna])
        assert this.static[antenna, subcarrier] == pytest.approx(paths.sum())
    assert np.linalg.norm(np.diff(this.antennas_m, axis=0), axis=1) == pytest.approx(has.WAVELENGTH_M / 2)


def test_static_channel_has_images_at_the_lengths_of_reflected_paths():
    this = room(3)
    floor_m = np.linalg.norm(this.transmitter_m * [1, 1, -1] - this.antennas_m[1])
    ceiling = this.transmitter_m * [1, 1, -1] + [0, 0, 2 * this.size_m[2]]
    lengths_m = this.delays_s[1, :25] * has.SPEED_OF_LIGHT
    for expected_m in (floor_m, np.linalg.norm(ceiling - this.antennas_m[1])):
        assert np.min(np.abs(lengths_m[1:7] - expected_m)) < 1e-9


def test_diffuse_tail_falls_off_exponentially():
    rooms = [room(number) for number in range(60)]
    delays_s = np.concatenate([this.delays_s[1, 25:] - this.delays_s[1, 0] for this in rooms])
    weights = np.concatenate([np.abs(this.gains[1, 25:]) ** 2 / np.sum(np.abs(this.gains[1]) ** 2) for this in rooms])
    profile, edges = np.histogram(delays_s, np.arange(0, 200e-9, 20e-9), weights=weights)
    slope, _ = np.polyfit(edges[:-1], np.log(profile), 1)
    assert 30e-9 < -1 / slope < 100e-9
    assert np.corrcoef(edges[:-1], np.log(profile))[0, 1] < -0.95


def test_frequency_interpolation_is_exact_to_60_db():
    delays_s = np.random.default_rng(0).uniform(5e-9, 115e-9, 300)
    knots, exact = (np.exp(-2j * np.pi * np.outer(f, delays_s)) for f in (has.KNOTS_HZ, has.SUBCARRIERS_HZ))
    assert np.max(np.abs(has.INTERPOLATION @ knots - exact)) < 1e-3


def test_one_scatterer_answers_by_the_bistatic_radar_equation(monkeypatch):
    this, cross_section = room(1), np.zeros(14)
    cross_section[6] = 0.5
    monkeypatch.setattr(has, "CROSS_SECTIONS_M2", cross_section)
    monkeypatch.setattr(this, "_shadow", lambda chest_m: np.ones(len(chest_m)))
    this.source_gains = np.eye(7)[0]
    scatterers_m = motion(1, "box")[:3]
    difference = this.response(scatterers_m) - this.static[:, :, None]
    outgoing_m = np.linalg.norm(scatterers_m[:, 6] - this.transmitter_m, axis=1)
    returning_m = np.linalg.norm(scatterers_m[:, 6] - this.antennas_m[:, None], axis=2)
    amplitude = has.WAVELENGTH_M * np.sqrt(0.5) / ((4 * np.pi) ** 1.5 * outgoing_m * returning_m)
    turns = np.multiply.outer(
        has.CENTER_FREQUENCY_HZ + has.SUBCARRIERS_HZ, (outgoing_m + returning_m) / has.SPEED_OF_LIGHT
    )
    expected = (amplitude * np.exp(-2j * np.pi * turns)).transpose(1, 0, 2)
    assert np.max(np.abs(difference - expected)) < 2e-3 * amplitude.max()


def test_torso_shadows_the_direct_path_only_where_it_stands_in_it():
    this = room(2)
    middle = (this.transmitter_m + this.antennas_m[1]) / 2
    aside = middle + np.outer([0, 0.2, 0.6, 2.0], [0, 1, 0])
    shadow = this._shadow(aside)
    assert shadow[0] == pytest.approx(0.3) and shadow[-1] > 0.99 and np.all(np.diff(shadow) > 0)


@pytest.mark.parametrize("activity", has.LABEL_NAMES)
def test_body_moves_at_human_speeds_and_stays_in_the_room(activity):
    time_s = np.arange(4000) / 1000
    for number in range(8):
        scatterers_m = motion(number, activity, time_s)
        assert scatterers_m.shape == (4000, 14, 3)
        assert np.all(scatterers_m > 0) and np.all(scatterers_m < room(number).size_m)
        speed_m_s = np.linalg.norm(np.diff(scatterers_m, axis=0), axis=2) * 1000
        assert 0.1 < speed_m_s.max() < 10
        trunk_m_s = np.mean(speed_m_s[:, has.CHEST])
        low, high = {"walk": (0.4, 1.75), "run": (0.8, 3.3), "clean": (0.02, 0.9), "fall": (0.15, 0.8)}.get(
            activity, (0, 0.1)
        )
        assert low < trunk_m_s < high


def test_fall_ends_on_the_floor_and_still():
    scatterers_m = motion(0, "fall")
    assert scatterers_m[0, 3, 2] > 1.4 and scatterers_m[-1, 3, 2] < 0.4
    assert np.max(np.abs(np.diff(scatterers_m[-50:], axis=0))) * has.PACKET_RATE_HZ < 0.05


@pytest.mark.parametrize("activity", has.LABEL_NAMES)
def test_doppler_stays_below_twice_the_speed_over_the_wavelength(activity):
    time_s = np.arange(2000) / 500
    for number in range(4):
        scatterers_m = motion(number, activity, time_s)
        speed_m_s = np.max(np.linalg.norm(np.diff(scatterers_m, axis=0), axis=2)) * 500
        response = room(number).response(scatterers_m)
        varying = (response - response.mean(2, keepdims=True)) * np.hanning(len(time_s))
        power = np.mean(np.abs(np.fft.fft(varying, axis=2)) ** 2, axis=(0, 1))
        frequency_hz = np.abs(np.fft.fftfreq(len(time_s), 1 / 500))
        bound_hz = 2 * speed_m_s / has.WAVELENGTH_M
        # a share of 1e-3 for the window and for changes of amplitude
        assert power[frequency_hz > bound_hz + 2].sum() < 1e-3 * power.sum()
        assert power[frequency_hz > 0.1 * bound_hz].sum() > 1e-3 * power.sum()


def test_activities_have_their_doppler_and_k_factor():
    time_s = np.arange(1000) / 250
    spread_hz, k_factor_db = {}, {}
    for activity in has.LABEL_NAMES:
        spreads, factors = [], []
        for number in range(8):
            response = room(number).response(motion(number, activity, time_s))
            mean = response.mean(2, keepdims=True)
            factors.append(np.mean(np.abs(mean) ** 2) / np.mean(np.abs(response - mean) ** 2))
            power = np.mean(np.abs(np.fft.fft((response - mean) * np.hanning(1000), axis=2)) ** 2, axis=(0, 1))
            spreads.append(np.sqrt(np.sum(power * np.fft.fftfreq(1000, 1 / 250) ** 2) / power.sum()))
        spread_hz[activity], k_factor_db[activity] = np.mean(spreads), 10 * np.log10(np.median(factors))
    assert spread_hz["clean"] < 8 < spread_hz["walk"] < 16 < spread_hz["run"] < 35
    assert spread_hz["circle"] < spread_hz["box"] < 35
    assert all(7 < factor < 27 for factor in k_factor_db.values())
    moving, standing = ("run", "walk", "clean"), ("box", "circle")
    assert max(k_factor_db[name] for name in moving) < min(k_factor_db[name] for name in standing)


def test_packets_are_those_of_a_faster_capture_without_a_filter():
    fast = np.arange(4 * has.NUM_PACKETS) / (4 * has.PACKET_RATE_HZ)
    this, boxing = room(5), motion(5, "box", fast)
    assert np.array_equal(motion(5, "box"), boxing[::4])
    response = this.response(boxing)
    assert np.allclose(this.response(motion(5, "box")), response[..., ::4], atol=1e-7 * np.abs(response).max())
    power = np.abs(np.fft.fft(response - response.mean(2, keepdims=True), axis=2)) ** 2
    above = np.abs(np.fft.fftfreq(len(fast), 1 / 500)) > has.PACKET_RATE_HZ / 2
    assert power[..., above].sum() > 1e-4 * power.sum()  # there is something to alias


@pytest.mark.parametrize("snr_db", [25.0, 35.0])
def test_empty_room_varies_by_the_noise_alone(snr_db):
    this = room(0)
    mean_power = np.mean(np.abs(this.static) ** 2)
    static = np.broadcast_to(this.static[:, :, None].astype(np.complex64), (3, 114, 500))
    measured_db = has.receive(np.random.default_rng(0), static, mean_power, snr_db, np.float64(50.0))
    assert measured_db.dtype == np.float32
    amplitude = 10 ** (measured_db / 20)
    strong = np.abs(this.static) ** 2 > 0.3 * mean_power
    # along the amplitude lies half the noise power; rounding I and Q adds 1 / 12 each
    expected = 10 ** ((50 - snr_db) / 10) / 2 + 1 / 12
    assert np.mean(amplitude.var(2)[strong]) == pytest.approx(expected, rel=0.03)
    level_db = 10 * np.log10(np.mean(amplitude**2))
    assert level_db == pytest.approx(50 + 10 * np.log10(1 + 10 ** (-snr_db / 10)), abs=0.05)


def test_amplitudes_are_those_of_a_ten_bit_receiver(recordings):
    images, labels = recordings
    assert images.shape[1:] == (3, 114, 500) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 20 * np.log10(511 * np.sqrt(2)) + 1e-4
    assert np.allclose(10 ** (images[0] / 10), np.rint(10 ** (images[0] / 10)), rtol=1e-4)
    assert images.mean() == pytest.approx(42, abs=1)
    assert 4 < images.std() < 5.1
    assert np.all(np.bincount(labels) == 24)


def _motion_features(image):
    """Log of the Doppler spectrum of the amplitude in octave parts, and how motion is spread over time."""
    varying = image - image.mean(2, keepdims=True)
    spectrum = np.mean(np.abs(np.fft.rfft(varying * np.hanning(has.NUM_PACKETS), axis=2)) ** 2, axis=(0, 1))
    edges = np.unique(np.geomspace(1, 240, 16).astype(int))
    over_time = np.sort(varying.reshape(3, 114, 10, 50).std(3).mean((0, 1)))
    return np.log(np.concatenate([np.add.reduceat(spectrum[:240], edges[:-1]) / np.diff(edges), over_time]))


def test_activity_can_be_told_in_rooms_never_seen(recordings):
    images, labels = recordings
    test_images, test_labels = simulated("test", 12, 6)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit([_motion_features(image) for image in images], labels)
    accuracy = model.score([_motion_features(image) for image in test_images], test_labels)
    assert 0.6 < accuracy < 0.9  # solvable, and not by everything: chance is 0.17


def test_rooms_belong_to_one_split_and_rows_do_not_depend_on_how_many():
    plan = has.plan(split_samples(300, has.SPLITS))
    assert {split: sum(count for _, count in items) for split, items in plan.items()} == {
        "train": 210,
        "validation": 30,
        "test": 60,
    }
    few, many = list(has.rows(3, "train", (1, 2))), list(has.rows(3, "train", (1, 3)))
    for row, same in zip(few, many[:2], strict=True):
        assert np.array_equal(row.pop("image"), same.pop("image")) and row == same
        assert 20e-9 < json.loads(row["parameters"])["delay_spread_s"] < 40e-9
    other = next(has.rows(3, "test", (1, 1)))
    assert other["group"] != few[0]["group"]
    assert json.loads(other["parameters"])["room_size_m"] != json.loads(few[0]["parameters"])["room_size_m"]
    assert np.shape(has.features().encode_example({**other, "split": "test"})["image"]) == (3, 114, 500)


def test_unknown_activity_is_named():
    with pytest.raises(ValueError, match="expected activity among box, .*; found 'swim'"):
        has.body_motion(np.random.default_rng(0), "swim", PACKETS_S, np.array([6.0, 5.0, 2.8]))
