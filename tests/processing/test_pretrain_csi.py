"""CSI of moving people and machines: empty rooms stand still, Doppler and powers as physics has them, integers."""

import json

import numpy as np
import pytest

from processing.simulation import has
from processing.simulation import pretrain_csi as csi

CENTER_HZ = 5.5e9
RATE_HZ = 1000.0
TIME_S = np.arange(2000) / RATE_HZ


def link(number, center_frequency_hz=CENTER_HZ):
    return csi.Link(np.random.default_rng(number), center_frequency_hz)


def mover(number, name, size_m, time=TIME_S):
    rng = np.random.default_rng(100 + number)
    return (csi.machine if name in csi.MACHINES else csi.person)(rng, name, time, size_m)


def speeds_m_s(moving):
    return np.linalg.norm(np.diff(moving.scatterers_m, axis=0), axis=2) * RATE_HZ


@pytest.fixture(scope="module")
def recordings():
    rows = [next(csi.rows(0, "train", index)) for index in range(240)]
    return rows, np.stack([row["image"][0] for row in rows]), [json.loads(row["parameters"]) for row in rows]


def test_empty_room_stands_still_but_for_the_noise():
    response = link(0).response([], 256)
    assert np.all(response == response[:, :1])
    for snr_db in (20, 30):
        flat = np.full((64, 4000), 1e-4 + 0j, np.complex64)
        amplitude = csi.receive(np.random.default_rng(0), flat, snr_db, 44.0, 511)
        # half of the noise's power is along the phasor
        assert amplitude.std() / amplitude.mean() == pytest.approx(10 ** (-snr_db / 20) / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize("number", range(4))
def test_direct_path_follows_friis_and_images_are_reflections(number):
    this = link(number)
    distance_m = np.linalg.norm(this.transmitter_m - this.receiver_m)
    friis = this.wavelength_m / (4 * np.pi * distance_m) * 10 ** (-this.obstruction_db / 20)
    assert np.abs(this.direct) == pytest.approx(friis, rel=1e-5)
    phase = np.unwrap(np.angle(this.direct))
    assert np.diff(phase) == pytest.approx(-2 * np.pi * 312.5e3 * distance_m / has.SPEED_OF_LIGHT, abs=2e-3)
    for image in this.sources_m[1:]:
        moved = np.flatnonzero(np.abs(image - this.transmitter_m) > 1e-9)
        assert len(moved) == 1
        middle = (image + this.transmitter_m)[moved[0]] / 2
        assert min(abs(middle), abs(middle - this.size_m[moved[0]])) < 1e-9


@pytest.mark.parametrize("center_frequency_hz", [2.44e9, 5.5e9])
def test_one_scatterer_answers_by_the_radar_equation_with_twice_its_speed(center_frequency_hz):
    this, speed_m_s = link(1, center_frequency_hz), 1.5
    this.source_gains[1:] = 0
    baseline_m = np.linalg.norm(this.receiver_m - this.transmitter_m)
    away = (this.receiver_m - this.transmitter_m) / baseline_m
    beyond_m = 1 + speed_m_s * TIME_S  # on the line through both, so both parts of the path grow
    moving = csi.Mover((this.receiver_m + beyond_m[:, None] * away)[:, None], np.array([0.5]))
    response = this.response([moving], len(TIME_S)) - this.static[:, None]
    turn_hz = np.angle(response[:, 1:] * np.conj(response[:, :-1])) * RATE_HZ / (2 * np.pi)
    expected_hz = -2 * speed_m_s * this.carriers_hz / has.SPEED_OF_LIGHT
    assert np.median(turn_hz, axis=1) == pytest.approx(expected_hz, rel=0.01)
    amplitude = np.sqrt(0.5) * this.wavelength_m / ((4 * np.pi) ** 1.5 * beyond_m * (baseline_m + beyond_m))
    assert np.abs(response) == pytest.approx(np.tile(amplitude, (64, 1)), rel=0.02)


@pytest.mark.parametrize("name", ["walk", "run", "box", "sit", "lie", "bend", "fan", "door", "shaker"])
def test_doppler_is_at_most_twice_the_speed_over_the_wavelength(name):
    for number in range(3):
        this = link(number)
        moving = mover(number, name, this.size_m)
        moving.chest = None  # the shadow is no path of its own
        changing = this.response([moving], len(TIME_S)) - this.static[:, None]
        changing = (changing - changing.mean(1, keepdims=True)) * np.hanning(len(TIME_S))
        power = np.sum(np.abs(np.fft.fft(changing, axis=1)) ** 2, axis=0)
        limit_hz = 2 * speeds_m_s(moving).max() / this.wavelength_m
        beyond = np.abs(np.fft.fftfreq(len(TIME_S), 1 / RATE_HZ)) > limit_hz + 3
        assert power[beyond].sum() < 2e-3 * power.sum()
        # and it moves: the static part was taken off
        assert power[np.abs(np.fft.fftfreq(len(TIME_S), 1 / RATE_HZ)) > 1].sum() > 1e-3 * power.sum()


def test_poses_and_machines_have_ordinary_sizes_and_speeds():
    time = np.arange(0, 8, 1 / RATE_HZ)
    size_m = np.array([5.0, 4.0, 2.6])
    for number in range(10):
        for name, most_m_s in {"stand": 0.2, "sit": 3.5, "lie": 6, "bend": 4}.items():
            moving = mover(number, name, size_m, time)
            assert moving.scatterers_m.shape == (len(time), 14, 3)
            height_m = moving.scatterers_m[..., 2]
            assert height_m.min() >= 0.03 and height_m.max() < 1.9
            assert speeds_m_s(moving).max() < most_m_s
            head_m = np.ptp(height_m[:, 3])
            assert head_m < 0.1 if name == "stand" else head_m > 0.3
        assert speeds_m_s(mover(number, "fan", size_m, time)).max() < 8.1
        assert speeds_m_s(mover(number, "shaker", size_m, time)).max() < 2.1
        assert speeds_m_s(mover(number, "door", size_m, time)).max() < 4
    turning = mover(3, "fan", size_m, time).scatterers_m
    assert np.linalg.norm(turning - turning.mean((0, 1)), axis=2).std(0) == pytest.approx(0, abs=0.02)


def test_shadow_dims_the_direct_path_by_10_db_at_most():
    this = link(2)
    middle = (this.transmitter_m + this.receiver_m) / 2
    across = np.cross(this.receiver_m - this.transmitter_m, [0, 0, 1.0])
    across /= np.linalg.norm(across)
    shadow = this.shadow(middle + np.linspace(0, 4, 9)[:, None] * across)
    assert shadow[0] == pytest.approx(0.3) and np.all(np.diff(shadow) >= 0) and shadow[-1] > 0.99


def test_report_is_integers_within_the_converter():
    rng = np.random.default_rng(0)
    response = link(3).response([], 256)
    for largest, level_db in ((127, 30.0), (511, 44.0), (127, 60.0)):
        amplitude = csi.receive(rng, response, 25, level_db, largest)
        assert amplitude.dtype == np.float32 and amplitude.shape == (64, 256)
        power = amplitude.astype(float) ** 2
        assert np.abs(power - np.rint(power)).max() < 1e-2 and amplitude.min() >= 1
        assert amplitude.max() <= np.sqrt(2) * largest + 1e-3
        if level_db < 50:
            assert 10 * np.log10(power.mean()) == pytest.approx(level_db, abs=0.3)


def test_gain_control_shifts_all_subcarriers_alike():
    response = link(3).response([], 512)
    steps = np.repeat([0.0, 6.0], 256)
    amplitude = csi.receive(np.random.default_rng(0), response, 40, 40.0, 511, steps)
    change_db = 20 * np.log10(amplitude[:, 256:].mean(1) / amplitude[:, :256].mean(1))
    assert change_db == pytest.approx(6, abs=0.15)


def test_packets_are_lost_and_reported_twice_in_order():
    steps = []
    for seed in range(50):
        packets = csi._reported_packets(np.random.default_rng(seed))
        assert len(packets) == 256 and 0 <= packets.min() and packets.max() < 288
        steps.append(np.diff(packets))
    steps = np.concatenate(steps)
    assert steps.min() == 0 and 2 <= steps.max() <= 4
    assert 0.01 < np.mean(steps == 0) < 0.03 and 0.01 < np.mean(steps > 1) < 0.03


def test_rows_hold_what_the_columns_say(recordings):
    rows, images, drawn = recordings
    assert rows[0]["image"].shape == (1, 64, 256) and images.dtype == np.float32 and np.isfinite(images).all()
    largest = np.array([row["largest_integer"] for row in drawn])
    assert set(largest) == {127, 511} and np.all(images.max((1, 2)) <= np.sqrt(2) * largest + 1e-3)
    assert images.min() >= 1
    rates_hz = np.array([row["sampling_rate_hz"] for row in rows])
    assert 25 <= rates_hz.min() < 30 and 125 < rates_hz.max() <= 150
    assert {tuple(row["movers"]) for row in drawn} == set(csi.SCENES)
    in_5_ghz = np.array([row["center_frequency_hz"] > 4e9 for row in rows])
    assert 0.4 < in_5_ghz.mean() < 0.6
    unused = np.array([row["unused_subcarriers"] for row in drawn])
    level_db = 20 * np.log10(images).mean(2)
    guard_db = level_db[:, csi.UNUSED].mean(1) - level_db[:, ~csi.UNUSED].mean(1)
    assert 0.35 < unused.mean() < 0.65
    assert guard_db[unused].max() < -8 and guard_db[~unused].min() > -12
    clipped = np.mean(images > 0.995 * largest[:, None, None], axis=(1, 2))
    assert np.median(clipped) < 1e-3 and clipped.max() < 0.1


def test_people_who_walk_are_seen_above_the_noise_and_empty_rooms_are_not(recordings):
    _, images, drawn = recordings
    changes_db = {"nobody": [], "walk": []}
    for image, row in zip(images, drawn, strict=True):
        if row["movers"][0] in changes_db and not row["interference"] and row["snr_db"] > 22:
            shown_db = 20 * np.log10(image[~csi.UNUSED])
            shown_db = shown_db - shown_db.mean(0)  # gain control
            slow_db = np.apply_along_axis(np.convolve, 1, shown_db, np.ones(16) / 16, "valid")
            changes_db[row["movers"][0]].append(np.median(slow_db.std(1)))
    assert min(map(len, changes_db.values())) >= 5
    assert np.median(changes_db["walk"]) > 3 * np.median(changes_db["nobody"])


def test_rows_are_a_function_of_seed_split_and_index(recordings):
    rows, images, _ = recordings
    assert np.array_equal(next(csi.rows(0, "train", 7))["image"][0], images[7])
    for other in ((1, "train", 7), (0, "validation", 7), (0, "train", 8)):
        assert not np.array_equal(next(csi.rows(*other))["image"][0], images[7])
    assert len({row["recording"] for row in rows}) == len(rows)
