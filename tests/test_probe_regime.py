"""Adapting by a fitted head, from the command line to the adapter; which weights stay; and what a head remembers."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import pipeline

from modeling_mmwfm import MMWFMFeatureExtractor, MMWFMForPreTraining, MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm.baselines_mmwfm import FEATURES, fit_baseline, measure_splits
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, load_splits
from modeling_mmwfm.estimators_mmwfm import MMWFMClassifier
from modeling_mmwfm.evaluation_mmwfm import predict
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune, load_adapted
from modeling_mmwfm.inputs_mmwfm import InputArguments, adapt_processor
from modeling_mmwfm.recipes_mmwfm import run_script
from processing.schema import csi_features
from tests.small_models import make
from tests.small_sets import common, image_rows, tone_rows
from tests.test_benchmark import write_splits
from tests.test_csi import SMALL_VIEW, noisy, paths
from tests.test_recipes import script


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make(MMWFMForPreTraining).save_pretrained(folder)
    extractor = MMWFMFeatureExtractor(normalization="sample", n_fft=32, hop_length=16)
    image_processor = MMWFMImageProcessor(size={"height": 16, "width": 16})
    MMWFMProcessor(extractor, image_processor, csi_processor=SMALL_VIEW).save_pretrained(folder)
    return str(folder)


def csi_rows(count, split, seed):
    """Movements of 5 or of 20 Hz at 100 packets/s, linear amplitude."""
    rows = [
        {"csi": np.abs(noisy(paths(5 + 15 * (row % 2), 64, 14, 2, seed=seed * 100 + row), 0.5)).astype(np.float32)}
        | {"label": row % 2, "unit": "linear", **common(row, split), "sampling_rate_hz": 100.0}
        for row in range(count)
    ]
    return Dataset.from_list(rows, features=csi_features(2, 14, 64, ["slow", "fast"])).with_format("numpy")


def adapt(base, folder, make_rows=tone_rows, splits=None, **changes):
    splits = splits or {name: make_rows(n, name, n) for name, n in (("train", 24), ("validation", 10), ("test", 12))}
    settings = dict(
        regime="probe", mixed_precision="no", num_train_epochs=3, warmup_epochs=0, batch_size=8, lora_rank=2
    )
    processor = adapt_processor(MMWFMProcessor.from_pretrained(base), InputArguments(), splits["train"])
    before = processor.to_dict()
    results = finetune(base, processor, splits, FinetuningArguments(str(folder), **settings | changes))
    assert processor.to_dict() == before  # kind and views are those of the saved one alone
    return results, splits


def test_from_the_command_line_to_an_adapter_that_is_evaluated_as_it_was_trained(base, tmp_path, capsys, monkeypatch):
    dataset = write_splits(tmp_path / "tones", tone_rows)
    line = f"--model {base} --dataset {dataset} --regime probe --iq_views iq spectrogram --mixed_precision no"
    command = script("finetune")
    types = command.TaskArguments, command.InputArguments, command.FinetuningArguments
    monkeypatch.setattr("sys.argv", ["finetune.py", *line.split(), "--output_dir", str(tmp_path / "run")])
    run_script(command.main, *types)
    results = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert results["test"]["mean_class_accuracy"] > 0.9 and results["trained_rows"] == 24
    assert "test: {'mean_class_accuracy'" in capsys.readouterr().out
    assert not (tmp_path / "run" / "training_log.json").exists()  # nothing was trained
    names = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert {re.sub(r".*classifier\.", "", name) for name in names} == {"weight", "bias", "centers", "scale", "basis"}
    processor = MMWFMProcessor.from_pretrained(tmp_path / "run")
    assert (processor.kind, processor.iq_views) == ("iq", ["iq", "spectrogram"])
    command = script("evaluate_model")
    line = f"--model {tmp_path / 'run'} --dataset {dataset} --output_dir {tmp_path / 'evaluated'}"
    monkeypatch.setattr("sys.argv", ["evaluate_model.py", *line.split()])
    run_script(command.main, command.EvaluationArguments)
    logits = [np.load(tmp_path / name / "test_predictions.npz")["logits"] for name in ("run", "evaluated")]
    np.testing.assert_allclose(*logits, atol=1e-4)
    classifier = MMWFMClassifier(base, kind="iq", views=["iq", "spectrogram"], sampling_rate_hz=1e6)
    splits = load_splits(str(dataset))
    classifier.fit(splits["train"]["iq"], splits["train"]["label"], groups=splits["train"]["group"][:])
    np.testing.assert_allclose(
        classifier.decision_function(splits["test"]["iq"]), logits[0][:, 1] - logits[0][:, 0], atol=1e-2
    )


@pytest.mark.parametrize("make_rows", [csi_rows, image_rows])
def test_csi_and_positions_are_adapted_and_opened_alike(base, tmp_path, make_rows):
    results, splits = adapt(base, tmp_path / "run", make_rows)
    model, processor = load_adapted(tmp_path / "run"), MMWFMProcessor.from_pretrained(tmp_path / "run")
    assert isinstance(model, PeftModel)
    column = "label" if make_rows is csi_rows else "position"
    logits, _ = predict(model, splits["test"], MMWFMDataCollator(processor, label_column=column))
    np.testing.assert_allclose(logits, np.load(tmp_path / "run" / "test_predictions.npz")["logits"], atol=1e-3)
    pipe = pipeline("signal-classification", model=model, processor=processor, device="cpu")
    if make_rows is csi_rows:
        assert results["test"]["mean_class_accuracy"] == 1 and processor.kind == "csi"
        assert processor.csi_processor.packet_rate_hz == 100.0
        assert pipe(splits["test"][0]["csi"])[0]["label"] == "slow"
    else:
        assert results["test"]["mean_error_m"] < 60 and processor.kind == "images"  # of places 0 to 310 m
        assert pipe(splits["test"][0]["image"])[0]["metres"] == pytest.approx(logits[0, 0], abs=1e-2)


@pytest.mark.parametrize("name", FEATURES)
def test_baselines_take_csi_of_either_unit(name):
    splits = {split: csi_rows(n, split, n) for split, n in (("train", 16), ("test", 10))}
    results = fit_baseline(name, splits, measure_splits(splits))
    assert results["test"]["mean_class_accuracy"] == 1
    decibels = [{**row, "csi": 20 * np.log10(row["csi"] / 100), "unit": "db"} for row in splits["test"]]
    splits["test"] = Dataset.from_list(decibels, features=splits["test"].features).with_format("numpy")
    assert fit_baseline(name, splits, measure_splits(splits))["test"] == results["test"]


def test_a_probe_of_fresh_weights_is_saved_whole(base, tmp_path):
    _, splits = adapt(base, tmp_path / "run", random_encoder=True)
    model = load_adapted(tmp_path / "run")
    assert not isinstance(model, PeftModel)
    collator = MMWFMDataCollator(MMWFMProcessor.from_pretrained(tmp_path / "run"), label_column="label")
    logits, _ = predict(model, splits["test"], collator)
    np.testing.assert_allclose(logits, np.load(tmp_path / "run" / "test_predictions.npz")["logits"], atol=1e-4)


def shuffled(rows, seed=0):
    """The same rows with labels of others."""
    labels = 1 - np.asarray(rows["label"][:])
    labels[:3] = 1 - labels[:3]
    return (
        rows.remove_columns("label").add_column("label", labels, feature=rows.features["label"]).with_format("numpy")
    )


@pytest.mark.parametrize("regime", ["lora", "head", "probe"])
def test_the_last_weights_need_no_labels_of_the_validation_split(base, tmp_path, regime):
    results, splits = adapt(base, tmp_path / "one", regime=regime, selection="last")
    other = {**splits, "validation": shuffled(splits["validation"])}
    again, _ = adapt(base, tmp_path / "two", regime=regime, selection="last", splits=other)
    assert again["test"] == results["test"] and again["validation"] != results["validation"]
    states = [load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("one", "two")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    if regime != "probe":
        log = json.loads((tmp_path / "one" / "training_log.json").read_text())
        assert not any("eval_loss" in row for row in log)


def test_training_may_begin_with_a_fitted_head(base, tmp_path):
    assert not FinetuningArguments("x").fit_head_first
    still = dict(base_learning_rate=1e-12, min_learning_rate=0.0, regime="lora", num_train_epochs=1)
    fitted, _ = adapt(base, tmp_path / "fitted", fit_head_first=True, **still)
    probe, _ = adapt(base, tmp_path / "probe")
    assert fitted["test"] == probe["test"] and fitted["test"]["mean_class_accuracy"] > 0.9
    logits = [np.load(tmp_path / name / "test_predictions.npz")["logits"] for name in ("fitted", "probe")]
    np.testing.assert_allclose(*logits, atol=1e-3)


@pytest.mark.parametrize("regime", ["lora", "full"])
def test_a_trained_head_knows_where_its_training_rows_lie(base, tmp_path, regime):
    _, splits = adapt(base, tmp_path / "run", regime=regime)
    model = load_adapted(tmp_path / "run")
    collator = MMWFMDataCollator(MMWFMProcessor.from_pretrained(tmp_path / "run"))
    noise = torch.randn(10, 1, 2, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        known = model(**collator(splits["validation"][:])).novelty
        assert known.median() < 1 and known.max() < 1.05  # by which the unit was set
        assert model(iq_values=noise).novelty.median() > known.max()


def test_results_alone_hold_the_time_and_no_weights(base, tmp_path):
    results, _ = adapt(base, tmp_path / "run", results_only=True)
    assert results["seconds"] > 0 and results["trained_parameters"] == 2 * (32 + 1)
    assert not list((tmp_path / "run").glob("*.safetensors"))
