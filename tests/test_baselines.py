"""Baselines see what tells classes apart, and show the leak of the paper's protocol as a number."""

import json

import numpy as np
import pytest
from datasets import Array3D, ClassLabel, Dataset, Features, List, Value

from modeling_mmwfm.baselines_mmwfm import (
    FEATURES,
    LINEAR,
    bands,
    fit_baseline,
    image_features,
    iq_features,
    log_spectrogram,
    measure_splits,
    run_baselines,
)
from modeling_mmwfm.targets_mmwfm import draw_labels
from tests.small_sets import tone_rows


def tones(frequencies, seed, samples=512):
    """(B, 1, T, 2): a tone of the given frequency (cycles per sample) in noise 20 dB below."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples)
    signal = np.exp(2j * np.pi * np.asarray(frequencies)[:, None] * time)
    signal = signal + 0.07 * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    return np.stack([signal.real, signal.imag], axis=-1).astype(np.float32)[:, None]


def labelled(iq, labels):
    features = Features({"iq": Array3D(iq.shape[1:], "float32"), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"iq": list(iq), "label": list(labels)}, features).with_format("numpy")


def test_log_spectrogram_has_the_tone_in_its_bin_whatever_the_scale():
    iq = tones([0.25], 0)
    spectrum = log_spectrogram(iq)[0].mean(0)
    assert spectrum.argmax() == 32 + 16
    assert log_spectrogram(1e-6 * iq)[0].mean(0) - spectrum == pytest.approx(-12, abs=1e-3)


def test_bands_cover_the_axis_once():
    spectrum = np.arange(257.0)[None]
    assert bands(spectrum).shape == (1, len(np.unique(np.geomspace(1, 257, 17).astype(int))) - 1)
    assert np.all(np.diff(bands(spectrum)[0]) > 0)


def test_features_are_finite_for_silence_short_windows_and_constant_images():
    assert np.isfinite(iq_features(np.zeros((2, 1, 40, 2), np.float32))).all()
    assert np.isfinite(image_features(np.ones((2, 3, 20, 30), np.float32))).all()


def test_both_baselines_tell_two_frequencies_apart():
    labels = np.arange(80) % 2
    iq = tones(np.where(labels, 0.1, 0.3), 1)
    results = run_baselines({"train": labelled(iq[:40], labels[:40]), "test": labelled(iq[40:], labels[40:])})
    for baselines in results.values():
        for numbers in baselines.values():
            assert numbers["mean_class_accuracy"] > 0.95


def test_the_papers_protocol_scores_recordings_that_carry_no_class():
    # every recording has a frequency of its own and a label that has nothing to do with it
    rng = np.random.default_rng(2)
    frequency, label = rng.uniform(-0.45, 0.45, 30), np.arange(30) % 2
    iq, labels = tones(np.repeat(frequency, 12), 3), np.repeat(label, 12)
    results = run_baselines(
        {"train": labelled(iq[:240], labels[:240]), "test": labelled(iq[240:], labels[240:])}, seed=1
    )
    name = "nearest neighbour on log-spectra"
    assert results["paper"][name]["mean_class_accuracy"] > 0.9
    assert results["grouped"][name]["mean_class_accuracy"] < 0.75


@pytest.mark.parametrize("name", FEATURES)
def test_a_baseline_under_a_label_budget_writes_what_fine_tuning_writes(name, tmp_path):
    labels = np.arange(80) % 2
    iq = tones(np.where(labels, 0.1, 0.3), 1)
    splits = {"train": labelled(iq[:40], labels[:40]), "test": labelled(iq[40:], labels[40:])}
    features = measure_splits(splits)
    results = fit_baseline(name, splits, features, samples_per_class=2, seed=3, output_dir=tmp_path)
    assert results["trained_rows"] == 4 and results["test"]["mean_class_accuracy"] > 0.95
    assert json.loads((tmp_path / "test_results.json").read_text()) == results
    predictions = np.load(tmp_path / "test_predictions.npz")
    assert np.array_equal(predictions["labels"], labels[40:])
    assert np.mean(predictions["logits"].argmax(1) == labels[40:]) == results["test"]["accuracy"]
    # the rows are those that fine-tuning would draw
    few = {**splits, "train": draw_labels(splits["train"], 2, 3)}
    again = fit_baseline(name, few, measure_splits(few))
    assert again | {"seconds": 0} == results | {"seconds": 0}


def test_a_class_without_training_rows_is_never_predicted(tmp_path):
    features = Features({"iq": Array3D((1, 512, 2), "float32"), "label": ClassLabel(names=["x", "a", "b"])})
    iq, labels = tones([0.1, 0.3] * 4, 1), [1, 2] * 4
    rows = Dataset.from_dict({"iq": list(iq), "label": labels}, features).with_format("numpy")
    fit_baseline(
        "linear on hand features",
        {"train": rows, "test": rows},
        measure_splits({"train": rows, "test": rows}),
        output_dir=tmp_path,
    )
    logits = np.load(tmp_path / "test_predictions.npz")["logits"]
    assert logits.shape == (8, 3) and np.all(logits[:, 0] == -np.inf) and np.isfinite(logits[:, 1:]).all()


def test_positions_are_scored_in_metres():
    rng = np.random.default_rng(4)
    position = rng.uniform(0, 10, (120, 2))
    images = (np.linspace(0, 1, 16)[None, :] < position[:, :1] / 10).astype(np.float32)
    images = np.stack([images, (np.linspace(0, 1, 16)[None, :] < position[:, 1:] / 10).astype(np.float32)], axis=1)
    features = Features({"image": Array3D((2, 1, 16), "float32"), "position": List(Value("float32"), length=2)})
    rows = Dataset.from_dict({"image": list(images[:, :, None]), "position": position.tolist()}, features)
    rows = rows.with_format("numpy")
    results = run_baselines({"train": rows.select(range(90)), "test": rows.select(range(90, 120))})
    for numbers in results["grouped"].values():
        assert numbers["mean_error_m"] < 2.0  # a guess of the centre is 3.8 m off
    few = run_baselines({"train": rows.select(range(90)), "test": rows.select(range(90, 120))}, samples_per_class=3)
    for name, numbers in few["grouped"].items():
        assert numbers["mean_error_m"] > results["grouped"][name]["mean_error_m"]


def test_missing_splits_and_targets_are_named():
    rows = labelled(tones([0.1, 0.2], 0), [0, 1])
    with pytest.raises(ValueError, match="expected splits train and test or validation, found \\['train'\\]"):
        run_baselines({"train": rows})
    with pytest.raises(ValueError, match="expected a column `label` or `position`, found \\['iq'\\]"):
        run_baselines({"train": rows.remove_columns("label"), "test": rows.remove_columns("label")})


def test_hand_features_are_measured_under_the_same_carrier_shifts_as_models():
    # Two classes by the carrier's place alone.
    splits = {split: tone_rows(60, split, number) for number, split in enumerate(("train", "test"))}
    accuracy = {
        shift: fit_baseline(LINEAR, splits, measure_splits(splits, shift))["test"]["mean_class_accuracy"]
        for shift in (0.0, 0.5)
    }
    assert accuracy[0.0] > 0.95 and accuracy[0.5] < 0.75
