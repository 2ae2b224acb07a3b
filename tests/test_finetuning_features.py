"""A head that trains alone: features are computed once, and all else stays as when the whole model runs."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from modeling_mmwfm import (
    IQFMConfig,
    IQFMForPreTraining,
    MMWFMConfig,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    finetuning_mmwfm,
)
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator
from modeling_mmwfm.evaluation_mmwfm import predict
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune, load_adapted
from modeling_mmwfm.frozen_features_mmwfm import FeatureRows, Head, compute_features, trains_head_alone
from modeling_mmwfm.regimes_mmwfm import apply_regime
from tests.small_sets import PRESETS, image_rows, tiny_processor, tone_rows

COUNTS = {"train": 40, "validation": 13, "test": 9}
IQFM = {"stem_channels": 8, "stage_channels": [16, 32], "stage_depths": [2, 2], "hidden_size": 64}


def splits_of(make_rows):
    return {name: make_rows(count, name, seed) for seed, (name, count) in enumerate(COUNTS.items())}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Checkpoints of each kind, with random weights and, of batch norms, statistics."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    models = {
        "mmwfm": MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny")),
        "wavesfm": MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "wavesfm-tiny")),
        "iqfm": IQFMForPreTraining(IQFMConfig(**IQFM)),
    }
    for name, buffer in models["iqfm"].named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return folder


def arguments_of(folder, **changes):
    settings = dict(num_train_epochs=5, warmup_epochs=1, batch_size=16, base_learning_rate=0.2, regime="head", seed=3)
    settings |= dict(mixed_precision="no")  # the same numbers on every machine
    return FinetuningArguments(output_dir=str(folder), **{**settings, **changes})


@pytest.fixture
def encoder_rows(monkeypatch):
    """Rows that have passed through the encoder of the model that is being adapted."""
    seen, make_model = SimpleNamespace(count=0, model=None), finetuning_mmwfm.make_model

    def hooked(*args):
        seen.model, seen.count = make_model(*args), 0

        def count(module, args, kwargs, output):
            seen.count += len(output.pooler_output)

        seen.model.base_model.register_forward_hook(count, with_kwargs=True)
        return seen.model

    monkeypatch.setattr(finetuning_mmwfm, "make_model", hooked)
    return seen


def without_features(monkeypatch):
    monkeypatch.setattr(finetuning_mmwfm, "trains_head_alone", lambda model: False)


def log_of(folder):
    """What an epoch measures, without times and what is summed since the run went on."""
    log = json.loads((folder / "training_log.json").read_text())
    return [
        {
            name: value
            for name, value in row.items()
            if not name.endswith(("runtime", "per_second", "flos", "train_loss"))
        }
        for row in log
    ]


def assert_same_run(expected, found, tolerance):
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    for one, two in zip(log_of(expected), log_of(found), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=tolerance)
    for split in ("validation", "test"):
        one, two = (np.load(folder / f"{split}_predictions.npz") for folder in (expected, found))
        np.testing.assert_array_equal(two["labels"], one["labels"])
        np.testing.assert_allclose(two["logits"], one["logits"], rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize(
    "base, make_rows, changes",
    [
        ("mmwfm", tone_rows, {}),
        ("mmwfm", tone_rows, {"pooling": "mean_std", "results_only": True}),
        ("mmwfm", tone_rows, {"random_encoder": True, "samples_per_class": 5, "min_steps": 9}),
        ("mmwfm", image_rows, {}),
        ("mmwfm", tone_rows, {"iq_views": ["iq", "spectrogram"]}),
        ("wavesfm", image_rows, {"results_only": True}),
        ("iqfm", tone_rows, {}),
        ("iqfm", tone_rows, {"regime": "strict", "results_only": True}),
    ],
)
def test_a_head_alone_learns_the_same_and_each_row_is_encoded_once(
    bases, tmp_path, monkeypatch, encoder_rows, base, make_rows, changes
):
    splits, folders = splits_of(make_rows), [tmp_path / name for name in ("features", "whole")]
    once = finetune(str(bases / base), tiny_processor(), splits, arguments_of(folders[0], **changes))
    assert encoder_rows.count == once["trained_rows"] + COUNTS["validation"] + COUNTS["test"]
    without_features(monkeypatch)
    whole = finetune(str(bases / base), tiny_processor(), splits, arguments_of(folders[1], **changes))
    assert encoder_rows.count > 2 * (once["trained_rows"] + COUNTS["validation"] + COUNTS["test"])
    assert once.keys() == whole.keys() and once["trained_parameters"] == whole["trained_parameters"]
    assert_same_run(folders[1], folders[0], 1e-2 if make_rows is image_rows else 1e-4)  # metres up to 310
    if changes.get("results_only"):
        return
    states = [load_file(folder / "model.safetensors") for folder in folders]
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        trained = name.startswith("classifier.")
        torch.testing.assert_close(states[0][name], value, rtol=0, atol=1e-4 if trained else 0, msg=name)
    # the folder is the whole model, whose predictions are those that were saved
    column, views = "label" if make_rows is tone_rows else "position", changes.get("iq_views", ["iq"])
    collator = MMWFMDataCollator(tiny_processor(), label_column=column, views=views)
    logits, _ = predict(load_adapted(folders[0]), splits["test"], collator)
    saved = np.load(folders[0] / "test_predictions.npz")["logits"]
    np.testing.assert_allclose(logits, saved, rtol=1e-4, atol=1e-3)


def test_a_head_alone_resumes_where_it_was_interrupted(bases, tmp_path, encoder_rows):
    splits, base = splits_of(tone_rows), str(bases / "mmwfm")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finetune(base, tiny_processor(), splits, arguments_of(whole))
    with pytest.MonkeyPatch.context() as patch:
        save = finetuning_mmwfm.Trainer._save_checkpoint

        def save_and_stop(self, *args):
            save(self, *args)
            if self.state.global_step == 6:  # of 15
                raise KeyboardInterrupt

        patch.setattr(finetuning_mmwfm.Trainer, "_save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(base, tiny_processor(), splits, arguments_of(stopped))
    finetune(base, tiny_processor(), splits, arguments_of(stopped))
    assert encoder_rows.count == sum(COUNTS.values())  # once more
    assert [row for row in log_of(stopped) if "eval_loss" in row] == [
        row for row in log_of(whole) if "eval_loss" in row
    ]
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_an_interrupted_run_of_the_whole_model_goes_on_with_features(bases, tmp_path, monkeypatch):
    """Of IQFM, "strict" has always trained the head alone: its checkpoints hold the whole model."""
    splits, base = splits_of(tone_rows), str(bases / "iqfm")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finetune(base, tiny_processor(), splits, arguments_of(whole, regime="strict"))
    with pytest.MonkeyPatch.context() as patch:
        without_features(patch)
        patch.setattr(finetuning_mmwfm, "evaluate_task", None)
        with pytest.raises(TypeError):
            finetune(base, tiny_processor(), splits, arguments_of(stopped, regime="strict"))
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-15", ignore_errors=True)
    assert any((stopped / "checkpoints").glob("checkpoint-*"))
    finetune(base, tiny_processor(), splits, arguments_of(stopped, regime="strict"))
    assert_same_run(whole, stopped, 1e-4)


@pytest.mark.parametrize("regime, alone", [("head", True), ("strict", False), ("lp", False), ("full", False)])
def test_features_are_kept_only_where_nothing_before_the_head_trains(bases, tmp_path, encoder_rows, regime, alone):
    model = MMWFMForSequenceClassification(MMWFMConfig.from_pretrained(PRESETS / "tiny", num_labels=2))
    assert trains_head_alone(apply_regime(model, regime, ["iq"])) == alone
    arguments = arguments_of(tmp_path / "run", regime=regime, results_only=True)
    results = finetune(str(bases / "mmwfm"), tiny_processor(), splits_of(tone_rows), arguments)
    assert (encoder_rows.count == sum(COUNTS.values())) == alone
    if alone:
        assert results["trained_parameters"] == 2 * 64 + 2
    assert not trains_head_alone(apply_regime(model, "lora", ["iq"]))


def test_features_and_labels_give_what_the_whole_model_gives_for_their_rows():
    rows = image_rows(7, "train", 0)
    limits = {"problem_type": "regression", "num_labels": 1, "label_min": [0.0], "label_max": [310.0]}
    model = MMWFMForSequenceClassification(MMWFMConfig.from_pretrained(PRESETS / "tiny", **limits)).eval()
    collator = MMWFMDataCollator(tiny_processor(), label_column="position")
    features = compute_features(model.base_model, rows, MMWFMDataCollator(tiny_processor()), batch_size=3)[:, 0]
    kept = FeatureRows(torch.from_numpy(features), torch.as_tensor(np.asarray(rows["position"][:])))
    assert len(kept) == 7 and kept.__getitems__([4, 1])["labels"].tolist() == [
        rows["position"][i].tolist() for i in (4, 1)
    ]
    for part in (slice(2, 6), slice(6, 9)):
        expected, found = model(**collator(rows[part])), Head(model)(**kept[part])
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_are_refused(bases, tmp_path):
    broken = AutoModelForSequenceClassification.from_pretrained(bases / "mmwfm")
    broken.base_model.norm.weight.data.fill_(float("nan"))
    broken.base_model.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="finite features, found NaN or Inf in 40 of 40 rows"):
        finetune(str(tmp_path / "base"), tiny_processor(), splits_of(tone_rows), arguments_of(tmp_path / "run"))
