"""No target follows from level, length or DC alone, unless its set declares that it does.

Logistic regression (for positions: linear) on one number of a row and its square, cross-validated by group. Every row
of a class is a group of its own, or every group has all classes alike, so that the error of an accuracy at chance is
binomial.
"""

import functools
import json

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from processing.simulation import has, interference, rfp, rfs
from processing.simulation.positioning import INDOOR, OUTDOOR


def decibel(power):
    return 10 * np.log10(power)


def power_of(rows):
    """(rows, T) of IQ."""
    return np.square(np.stack([row["iq"][0] for row in rows])).sum(2)


def level_of_iq(rows):
    return decibel(power_of(rows).mean(1))


def dc_of_iq(rows):
    """In dB relative to full scale."""
    return decibel(np.square(np.stack([row["iq"][0].mean(0) for row in rows])).sum(1))


def burst_of_iq(rows):
    """Share of 32 samples each that are less than 5 dB below the mean."""
    parts = power_of(rows).reshape(len(rows), -1, 32).mean(2)
    return np.mean(parts > 0.3 * parts.mean(1, keepdims=True), axis=1)


def images_of(rows):
    return np.stack([row["image"] for row in rows])


def mean_of_image(rows):
    return images_of(rows).mean((1, 2, 3))


def level_of_spectrogram(rows):
    return decibel(np.mean(10 ** (images_of(rows) / 10), axis=(1, 2, 3)))


def dc_of_spectrogram(rows):
    """The two rows around 0 Hz over those beside them."""
    image = images_of(rows)[:, 0]
    return image[:, 111:113].mean((1, 2)) - image[:, [104, 105, 106, 107, 116, 117, 118, 119]].mean((1, 2))


def burst_of_spectrogram(rows):
    """Share of columns in which the strongest row is less than 10 dB below its strongest."""
    strongest = images_of(rows)[:, 0].max(1)
    return np.mean(strongest > strongest.max(1, keepdims=True) - 10, axis=1)


def capture_length(rows):
    """Logarithm of the number of samples, which is not in a row's shape: the image is resized."""
    return np.log([json.loads(row["parameters"])["duration_s"] * row["sampling_rate_hz"] for row in rows])


def spread_of_image(rows):
    return images_of(rows).std((1, 2, 3))


def dc_of_csi(rows):
    """The subcarriers on both sides of DC over all."""
    return images_of(rows)[:, :, 56:58].mean((1, 2, 3)) - mean_of_image(rows)


def middle_of_band(rows):
    images = images_of(rows)
    return images[..., 135:137].mean((1, 2, 3)) / images.mean((1, 2, 3))


def level_per_station(rows):
    return images_of(rows).mean((2, 3))


# Where the level tells, DC relative to it tells the same.
IQ = {"level": level_of_iq, "dc": lambda rows: dc_of_iq(rows) - level_of_iq(rows), "burst length": burst_of_iq}
IQ_WITH_LEVEL = IQ | {"dc": dc_of_iq}
SPECTROGRAM = {
    "level": level_of_spectrogram,
    "dc": dc_of_spectrogram,
    "capture length": capture_length,
    "burst length": burst_of_spectrogram,
}
CSI = {"level": mean_of_image, "spread": spread_of_image, "dc": dc_of_csi}
POSITION = {"level": mean_of_image, "dc": middle_of_band, "level per station": level_per_station}


def windows_of_base_stations(control=None):
    """One window of every recording."""
    return [next(rfp.rows(0, "train", (recording, 1), control=control)) for recording in range(360)]


def windows_of_cells():
    return [next(interference.rows(0, "train", index)) for index in range(600)]


def with_and_without_interference():
    """As many windows without as with, of both modulations."""
    rows = windows_of_cells()
    return [{**row, "label": int(row["label"] > 0)} for n, row in enumerate(rows) if row["label"] == 0 or n // 3 % 2]


def positions(task):
    return [row for item in task.plan({"train": 960})["train"] for row in task.rows(0, "train", item)]


SETS = {
    "rfp": (windows_of_base_stations, IQ),
    "rfp, same hardware": (lambda: windows_of_base_stations("same-hardware"), IQ),
    "interference or none": (with_and_without_interference, IQ_WITH_LEVEL),
    "bpsk or qpsk": (lambda: [row for row in windows_of_cells() if row["label"]], IQ_WITH_LEVEL),
    "has": (lambda: [row for room in range(25) for row in has.rows(0, "train", (room, 6))], CSI),
    "rfs": (lambda: [next(rfs.rows(0, "train", index)) for index in range(300)], SPECTROGRAM),
    "pos-indoor": (lambda: positions(INDOOR), POSITION),
    "pos-outdoor": (lambda: positions(OUTDOOR), POSITION),
}
# What does tell, and how much; the modules say why.
DECLARED = {
    ("rfp", "dc"): (0.35, 0.65),
    ("interference or none", "level"): (0.8, 0.97),
    ("rfs", "burst length"): (0.1, 0.3),
    ("pos-indoor", "level per station"): (0.06, 0.3),
    ("pos-outdoor", "level per station"): (0.1, 0.4),
}


@functools.cache
def drawn(name):
    return SETS[name][0]()


def predicted(model, values, targets, groups):
    values = values.reshape(len(values), -1)
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), model)
    return cross_val_predict(model, values, targets, groups=groups, cv=GroupKFold(5))


def class_score(values, labels, groups):
    """(accuracy, the highest that chance explains: three standard deviations)"""
    chance = 1 / len(np.unique(labels))
    deviation = np.sqrt(chance * (1 - chance) / len(labels))
    return np.mean(predicted(LogisticRegression(), values, labels, groups) == labels), chance + 3 * deviation


def position_score(values, positions_m, groups):
    """(share of the variance of the coordinate that is told best, 0.05): a scene is fixed, so it is not exactly 0."""
    told_m = predicted(LinearRegression(), values, positions_m, groups)
    return r2_score(positions_m, told_m, multioutput="raw_values").max(), 0.05


def score_of(name, measure, rows):
    values, groups = SETS[name][1][measure](rows), [row["group"] for row in rows]
    if "position" in rows[0]:
        return position_score(values, np.stack([row["position"] for row in rows]), groups)
    return class_score(values, np.array([row["label"] for row in rows]), groups)


@pytest.mark.parametrize(
    "name, measure", [(name, measure) for name, (_, measures) in SETS.items() for measure in measures]
)
def test_target_does_not_follow_from_one_number(name, measure):
    score, limit = score_of(name, measure, drawn(name))
    if (name, measure) in DECLARED:
        low, high = DECLARED[name, measure]
        assert limit < low < score < high
    else:
        assert score < limit


@pytest.mark.parametrize("name", [name for name in SETS if not name.startswith("pos")])
def test_classes_are_equally_many(name):
    """So that chance is one over their number."""
    counts = np.unique([row["label"] for row in drawn(name)], return_counts=True)[1]
    assert len(set(counts)) == 1


@pytest.mark.parametrize("name", SETS)
def test_rows_are_full_from_end_to_end(name):
    """No zeros or other padding at the ends, whose length could tell."""
    for row in drawn(name):
        if "iq" in row:
            assert np.all(np.any(row["iq"] != 0, axis=2))
        else:
            assert np.all(np.ptp(row["image"], axis=(0, 1)) > 0)
    assert len({(row["iq"] if "iq" in row else row["image"]).shape for row in drawn(name)}) == 1


def test_a_shortcut_would_be_found():
    rng = np.random.default_rng(0)
    labels, groups = np.arange(400) % 4, np.arange(400)
    for share, is_found in ((0.5, True), (0.0, False)):
        accuracy, limit = class_score(rng.standard_normal(400) + share * labels, labels, groups)
        assert (accuracy > limit) == is_found
        positions_m = rng.uniform(0, 60, (400, 3))
        told, limit = position_score(rng.standard_normal(400) + share * positions_m[:, 1] / 20, positions_m, groups)
        assert (told > limit) == is_found


TAMPERED = {
    ("rfp, same hardware", "level"): lambda row: {"iq": row["iq"] * (1 + row["label"])},
    ("rfp, same hardware", "dc"): lambda row: {"iq": row["iq"] + np.abs(row["iq"]).mean() * row["label"]},
    ("bpsk or qpsk", "dc"): lambda row: {"iq": row["iq"] + np.float32(3e-4 * row["label"])},
    ("has", "level"): lambda row: {"image": row["image"] + row["label"]},
    ("has", "dc"): lambda row: {"image": np.insert(row["image"], 57, 60 + 5 * row["label"], axis=1)},
    ("rfs", "level"): lambda row: {"image": row["image"] + 3 * row["label"]},
    ("rfs", "dc"): lambda row: {"image": row["image"] + (np.arange(224) == 112)[:, None] * 2 * row["label"]},
    ("rfs", "capture length"): lambda row: {"sampling_rate_hz": row["sampling_rate_hz"] * (1 + row["label"])},
    ("pos-indoor", "level"): lambda row: {"image": row["image"] * (1 + row["position"][0] / 60)},
}


@pytest.mark.parametrize("name, measure", TAMPERED)
def test_a_generator_that_gives_its_target_away_would_be_found(name, measure):
    score, limit = score_of(name, measure, [row | TAMPERED[name, measure](row) for row in drawn(name)])
    assert score > limit
