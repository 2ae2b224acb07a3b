"""Frozen features are measured on recordings that nothing was fitted to, and by classes that can be measured."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import balanced_accuracy_score
from transformers import AutoModel

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining, baselines_mmwfm, probing_mmwfm
from modeling_mmwfm.baselines_mmwfm import INVERSE_STRENGTHS, choose_strength, fit_model, make_linear
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, shifted_iq
from modeling_mmwfm.probing_mmwfm import ProbeArguments, compute_features, probe, probe_features, score_classes
from modeling_mmwfm.recipes_mmwfm import run_script
from modeling_mmwfm.targets_mmwfm import draw_rows
from tests.small_models import SMALL
from tests.small_sets import image_rows, tiny_processor, tone_rows

SCRIPT = Path(__file__).parents[1] / "training_scripts" / "probe.py"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(5)
    MMWFMForPreTraining(MMWFMConfig(**SMALL)).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def make_splits(rows, **counts):
    return {split: rows(count, split, seed) for seed, (split, count) in enumerate(counts.items())}


@pytest.fixture(scope="module")
def tones():
    return make_splits(tone_rows, train=40, validation=8, test=16)


def run(checkpoint, splits, folder, **settings):
    return probe(checkpoint, tiny_processor(), splits, ProbeArguments(output_dir=str(folder), **settings))


def test_two_tones_are_told_apart_and_the_same_call_returns_what_it_found(checkpoint, tones, tmp_path, monkeypatch):
    results = run(checkpoint, tones, tmp_path / "run", pooling="mean_std")
    assert results["num_features"] == 2 * SMALL["hidden_size"] and results["scored_classes"] == [
        "negative",
        "positive",
    ]
    assert [numbers["seed"] for numbers in results["per_seed"]] == [0]  # nothing is drawn
    for kind in ("linear", "knn"):
        assert results["mean"][kind] == results["per_seed"][0][kind] and results["std"][kind] == {}
        assert results["mean"][kind]["balanced_accuracy"] > 0.9
    assert json.loads((tmp_path / "run" / "probe_results.json").read_text()) == results

    monkeypatch.setattr(probing_mmwfm, "compute_features", None)
    assert run(checkpoint, tones, tmp_path / "run", pooling="mean_std", batch_size=3) == results
    with pytest.raises(ValueError, match=r"same arguments, other: \['carrier_shift', 'pooling'\]"):
        run(checkpoint, tones, tmp_path / "run", carrier_shift=0.1)


@pytest.mark.parametrize("views", [["spectrogram"], ["iq", "spectrogram"]])
def test_iq_is_probed_in_the_views_that_are_named(checkpoint, tones, tmp_path, monkeypatch, views):
    seen = []

    def keep_inputs(model, rows, collator, *rest):
        seen.append(set(collator(rows[:2])))
        return compute_features(model, rows, collator, *rest)

    monkeypatch.setattr(probing_mmwfm, "compute_features", keep_inputs)
    processor = tiny_processor()
    processor.feature_extractor.n_fft, processor.feature_extractor.hop_length = 16, 4
    arguments = ProbeArguments(output_dir=str(tmp_path / "run"), pooling="mean_std", iq_views=views)
    results = probe(checkpoint, processor, tones, arguments)
    expected = {"iq": "iq_values", "spectrogram": "pixel_values"}
    assert seen == [{expected[view] for view in views}] * len(tones)
    assert results["mean"]["linear"]["balanced_accuracy"] > 0.9


def test_positions_are_scored_in_metres(checkpoint, tmp_path):
    splits = make_splits(image_rows, train=300, test=60)  # without validation
    results = run(checkpoint, splits, tmp_path, pooling="mean", seeds=[0])
    guess = np.mean(splits["train"]["position"][:], axis=0)
    guess_m = np.abs(splits["test"]["position"][:] - guess).mean()
    assert set(results["mean"]["knn"]) == {"mean_error_m", "median_error_m", "p90_error_m"}
    assert results["mean"]["linear"]["mean_error_m"] < 0.5 * guess_m
    assert results["mean"]["knn"]["mean_error_m"] < 0.9 * guess_m
    assert "scored_classes" not in results


def test_features_without_class_score_at_chance():
    rng = np.random.default_rng(0)
    labels, counts = rng.integers(0, 4, 900), {"train": 400, "validation": 100, "test": 400}
    splits, features, start = {}, {}, 0
    template = tone_rows(2, "x", 0).features.copy()
    template["label"] = type(template["label"])(names=list("abcd"))
    for split, count in counts.items():
        iq, names = np.zeros((count, 1, 128, 2), np.float32), [f"{split}{row // 2}" for row in range(count)]
        columns = {"iq": list(iq), "label": labels[start : start + count], "recording": names}
        kept = type(template)({name: template[name] for name in columns})
        splits[split] = Dataset.from_dict(columns, kept).with_format("numpy")
        features[split] = rng.standard_normal((count, 1, 20))
        start += count
    results = probe_features(splits, features, None, 0)
    for kind in ("linear", "knn"):
        assert results[kind]["balanced_accuracy_all"] == pytest.approx(0.25, abs=0.08)
    assert not any("recording" in key for key in results["knn"])  # whose windows are of several classes here


def test_seeds_draw_the_encoder_and_the_labels(checkpoint, tones, tmp_path, monkeypatch):
    seen, compute = [], compute_features

    def watched(*arguments):
        seen.append(compute(*arguments))
        return seen[-1]

    monkeypatch.setattr(probing_mmwfm, "compute_features", watched)
    run(checkpoint, tones, tmp_path / "a", random_encoder=True, seeds=[1, 2])
    run(checkpoint, tones, tmp_path / "b", random_encoder=True, seeds=[2])
    first, second, again = seen[0], seen[3], seen[6]
    assert np.abs(first - second).max() > 0.1 and np.array_equal(second, again)
    seen.clear()
    results = run(checkpoint, tones, tmp_path / "c", samples_per_class=3, seeds=[0, 1, 2])
    assert len(seen) == 3  # one pretrained encoder, each split once
    assert np.abs(seen[0] - first).max() > 0.1
    assert [numbers["trained_rows"] for numbers in results["per_seed"]] == [6, 6, 6]
    values = [numbers["linear"]["balanced_accuracy"] for numbers in results["per_seed"]]
    assert results["mean"]["linear"]["balanced_accuracy"] == pytest.approx(np.mean(values))
    assert results["std"]["linear"]["balanced_accuracy"] == pytest.approx(np.std(values, ddof=1))


def test_a_label_budget_fits_to_the_rows_that_fine_tuning_draws(tones, monkeypatch):
    features = {split: np.arange(len(rows), dtype=float)[:, None, None] for split, rows in tones.items()}
    fitted = []

    def watched(model, values, targets, num_labels):
        fitted.append(values[:, 0])
        return fit_model(model, values, targets, num_labels)

    monkeypatch.setattr(probing_mmwfm, "fit_model", watched)
    probe_features(tones, features, 3, 4)
    for values in fitted:
        assert np.array_equal(values, draw_rows(np.asarray(tones["train"]["label"][:]), 3, 4))


def test_copies_of_training_rows_are_shifted_by_known_draws(checkpoint, tones):
    model = AutoModel.from_pretrained(checkpoint, pooling="mean").eval()
    collator = MMWFMDataCollator(tiny_processor(), carrier_shift=0.5)
    rows = tones["train"].select(range(10))
    features = compute_features(model, rows, collator, batch_size=4, copies=3)
    assert features.shape == (10, 3, SMALL["hidden_size"])
    np.testing.assert_allclose(features[:, :1], compute_features(model, rows, collator), atol=1e-5)
    for copy in (1, 2):
        draws = np.random.default_rng(copy).uniform(-1, 1, 10)
        iq = shifted_iq(rows[:], 0.5, draws)
        with torch.no_grad():
            expected = model(iq_values=tiny_processor()(iq=iq)["iq_values"]).pooler_output
        np.testing.assert_allclose(features[:, copy], expected, atol=1e-5)
        assert np.abs(features[:, copy] - features[:, 0]).max() > 0.1


def test_training_rows_alone_have_copies(checkpoint, tones, tmp_path, monkeypatch):
    shapes = []

    def watched(splits, features, *rest):
        shapes.append({split: values.shape[:2] for split, values in features.items()})
        flat = features["train"].reshape(-1, features["train"].shape[-1])
        np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)  # standardised by all training rows
        np.testing.assert_allclose(flat.std(0), 1, atol=1e-3)
        assert np.abs(features["test"].mean((0, 1))).max() > 0.01
        return probe_features(splits, features, *rest)

    monkeypatch.setattr(probing_mmwfm, "probe_features", watched)
    run(checkpoint, tones, tmp_path, carrier_shift=0.5, shift_copies=2, pooling="mean")
    assert shapes == [{"train": (40, 2), "validation": (8, 1), "test": (16, 1)}]


def log_probabilities(*rows):
    return np.log(np.array(rows))


def test_classes_of_one_recording_are_left_out_and_recordings_vote():
    logits = log_probabilities(
        [0.9, 0.05, 0.05],  # a: one window of two is wrong, but hardly
        [0.4, 0.5, 0.1],
        [0.1, 0.2, 0.7],  # b
        [0.2, 0.7, 0.1],  # c
        [0.1, 0.8, 0.1],  # d
        [0.1, 0.8, 0.1],  # e, the only recording of its class
    )
    labels, recordings = np.array([0, 0, 0, 1, 1, 2]), np.array(["a", "a", "b", "c", "d", "e"])
    numbers = score_classes(logits, labels, recordings)
    assert numbers == pytest.approx(
        {
            "balanced_accuracy": (1 / 3 + 1) / 2,
            "balanced_accuracy_all": (1 / 3 + 1 + 0) / 3,
            "recording_balanced_accuracy": (1 / 2 + 1) / 2,
            "recording_balanced_accuracy_all": (1 / 2 + 1 + 0) / 3,
        }
    )
    assert numbers["balanced_accuracy_all"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    alone = score_classes(logits, labels, np.array(["a", "a", "a", "c", "c", "e"]))
    assert set(alone) == {"balanced_accuracy_all", "recording_balanced_accuracy_all"}


def test_one_window_without_neighbours_of_a_class_does_not_overrule_its_recording(tones):
    # Directions of the classes; the one test recording is of class 1, and one of its windows looks like class 0.
    train, test = tones["train"], tones["test"].select([1, 3, 5]).remove_columns("recording")
    test = test.add_column("recording", ["one"] * 3).with_format("numpy")
    direction = np.array([[1.0, 0.0], [0.0, 1.0]])
    features = {"train": direction[train["label"][:]][:, None], "test": direction[[1, 1, 0]][:, None]}
    numbers = probe_features({"train": train, "test": test}, features, None, 0)["knn"]
    assert numbers["balanced_accuracy_all"] == pytest.approx(2 / 3)
    assert numbers["recording_balanced_accuracy_all"] == 1


@pytest.fixture
def noisy():
    """Features (60, 30) of two classes, one in which they differ a little; two windows of each of 30 recordings."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(30) % 2, 2)
    features = rng.standard_normal((60, 30))
    features[:, 0] += 1.5 * labels
    return features, labels, np.repeat(np.arange(30), 2)


def test_the_strength_is_the_best_on_the_validation_split(noisy):
    features, labels, recordings = noisy
    rng = np.random.default_rng(9)
    truth = np.arange(400) % 2
    values = rng.standard_normal((400, 30))
    values[:, 0] += 1.5 * truth
    accuracy = {
        c: balanced_accuracy_score(truth, make_linear(False, c).fit(features, labels).predict(values))
        for c in INVERSE_STRENGTHS
    }
    assert len(set(accuracy.values())) > 1
    found = choose_strength(features, labels, recordings, 2, (values, truth))
    assert accuracy[found] == max(accuracy.values())


@pytest.mark.parametrize("regression", [False, True])
def test_without_a_complete_validation_split_whole_recordings_are_held_out(noisy, monkeypatch, regression):
    features, labels, recordings = noisy
    targets = np.stack([labels, labels], axis=1).astype(float) if regression else labels
    features[:, 1] = recordings
    held_out = []

    def watched(model, values, *rest):
        predict = fit_model(model, values, *rest)

        def predict_others(others):
            assert not set(others[:, 1]) & set(values[:, 1])
            held_out.append(set(others[:, 1]))
            return predict(others)

        return predict_others

    monkeypatch.setattr(baselines_mmwfm, "fit_model", watched)
    assert choose_strength(features, targets, recordings, 2) in INVERSE_STRENGTHS
    assert len(held_out) == 5 * len(INVERSE_STRENGTHS)
    assert set.union(*held_out[:5]) == set(recordings)
    if not regression:  # a validation split of one class decides nothing
        held_out.clear()
        choose_strength(features, targets, recordings, 2, (features[labels == 1], labels[labels == 1]))
        assert len(held_out) == 5 * len(INVERSE_STRENGTHS)


def test_rows_too_few_to_choose_by_take_the_first_strength(noisy):
    features, labels, _ = noisy
    assert choose_strength(features[1:3], labels[1:3], np.array([0, 1]), 2) == INVERSE_STRENGTHS[0]
    assert choose_strength(features, labels, np.zeros(60), 2) == INVERSE_STRENGTHS[0]


def test_what_cannot_be_probed_is_refused(checkpoint, tones, tmp_path):
    def refused(match, splits=tones, base=checkpoint, **settings):
        with pytest.raises(ValueError, match=match):
            run(base, splits, tmp_path / "out", **settings)

    refused("`shift_copies`: expected 1 without `carrier_shift`, found 2", shift_copies=2)
    refused("`shift_copies`: expected at least 1, found 0", shift_copies=0)
    refused(r"`seeds`: expected at least one and each once, found \[1, 1\]", seeds=[1, 1])
    refused("`samples_per_class`: expected at least 1, found 0", samples_per_class=0)
    refused(r"`iq_views`: expected 'iq', 'spectrogram' or both, found \['waterfall'\]", iq_views=["waterfall"])
    refused(r"expected splits train and test, found \['train'\]", {"train": tones["train"]})
    without = {**tones, "test": tones["test"].remove_columns("recording")}
    refused(r"expected a column `recording`, found none in \['test'\]", without)
    (tmp_path / "adapter_config.json").write_text("{}")
    refused("expected a checkpoint, found an adapter", base=str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_refused(checkpoint, tones):
    model = AutoModel.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="found NaN or Inf in 16 of 16 rows"):
        compute_features(model, tones["test"], MMWFMDataCollator(tiny_processor()))


def test_the_script_prints_a_line_for_each_seed(checkpoint, tones, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("probe", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for split, rows in tones.items():
        (tmp_path / "data" / split).mkdir(parents=True)
        rows.to_parquet(tmp_path / "data" / split / f"{split}.parquet")
    (tmp_path / "recipe.yaml").write_text("pooling: mean_std\nseeds: [4, 5]\nrandom_encoder: true\n")
    line = f"{tmp_path}/recipe.yaml --model {checkpoint} --dataset {tmp_path}/data --output_dir {tmp_path}/out"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *line.split(), "--normalization", "sample"])
    run_script(script.main, script.TaskArguments, script.InputArguments, ProbeArguments)
    lines = capsys.readouterr().out.splitlines()
    assert [text.split(":")[0] for text in lines] == ["seed 4", "seed 5"] and "balanced_accuracy" in lines[0]
    recorded = json.loads((tmp_path / "out" / "probe_results.json").read_text())["run"]
    assert recorded["normalization"] == "sample" and recorded["dataset"] == f"{tmp_path}/data"
    assert recorded["base"] == checkpoint and recorded["seeds"] == [4, 5]
