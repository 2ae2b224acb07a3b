"""Fine-tuning: what trains, saved and loaded results."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from scipy.special import softmax
from sklearn.metrics import log_loss

from modeling_mmwfm import (
    IQFMConfig,
    IQFMForPreTraining,
    IQFMForSequenceClassification,
    MMWFMConfig,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMProcessor,
    data_collator_mmwfm,
)
from modeling_mmwfm.baselines_mmwfm import LINEAR, fit_baseline, measure_splits
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator
from modeling_mmwfm.evaluation_mmwfm import evaluate_task, predict
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, KeepBest, finetune, load_adapted
from modeling_mmwfm.metrics_mmwfm import ClassificationReport, LocalizationError, interference_report
from modeling_mmwfm.pretraining_mmwfm import pretrain
from modeling_mmwfm.regimes_mmwfm import apply_regime
from modeling_mmwfm.targets_mmwfm import draw_labels, target_settings
from tests.small_sets import PRESETS, image_rows, pretraining_arguments, run_pretraining, tiny_processor, tone_rows


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run_pretraining(folder)
    return folder


def count(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "regime, expected",
    [
        # head 1,028; projection 8,448; affine 512; antenna vectors 4,096; a block 789,760; adapters 262,144
        ("strict", 1_028 + 256),
        ("lp", 1_028 + 8_448 + 512 + 4_096),
        ("ft2", 1_028 + 8_448 + 512 + 4_096 + 2 * 789_760),
        ("lora", 1_028 + 8_448 + 512 + 4_096 + 262_144),
        ("full", 1_028 + 8_448 + 512 + 4_096 + 6_318_080 + 256 + 512),
    ],
)
def test_trained_parameters_of_small_are_those_of_the_papers_table(regime, expected):
    model = MMWFMForSequenceClassification(MMWFMConfig.from_pretrained(PRESETS / "small", num_labels=4))
    model = apply_regime(model, regime, ["iq"])
    assert count(model) == expected
    published = {"strict": 1.3e3, "lp": 15e3, "ft2": 1.6e6, "lora": 0.28e6, "full": 6.3e6}[regime]
    assert count(model) == pytest.approx(published, rel=0.1)
    assert not any("image_embeddings" in name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("regime", ["lpp", "ft", "ft9", ""])
def test_an_unknown_regime_is_refused(regime):
    model = MMWFMForSequenceClassification(MMWFMConfig.from_pretrained(PRESETS / "tiny"))
    with pytest.raises(ValueError, match="`regime`"):
        apply_regime(model, regime, ["iq"])


def finetuning_arguments(folder, regime, **changes):
    settings = dict(
        num_train_epochs=6, warmup_epochs=1, batch_size=16, base_learning_rate=0.1, lora_rank=4, label_smoothing=0.0
    )
    settings |= dict(layer_decay=1.0, mixed_precision="no")  # the same numbers on every machine
    return FinetuningArguments(output_dir=str(folder), regime=regime, **{**settings, **changes})


def tone_splits():
    return {
        name: tone_rows(n, name, seed)
        for seed, (name, n) in enumerate({"train": 48, "validation": 16, "test": 16}.items())
    }


@pytest.mark.parametrize("regime", ["lora", "ft1", "scratch"])
def test_an_adapted_model_solves_its_task_and_reloads_exactly(pretrained, tmp_path, regime):
    processor, splits = MMWFMProcessor.from_pretrained(pretrained), tone_splits()
    arguments = finetuning_arguments(tmp_path / "run", regime, num_train_epochs=10)
    results = finetune(str(pretrained), processor, splits, arguments)
    assert results["test"]["mean_class_accuracy"] > 0.9
    model = load_adapted(tmp_path / "run")
    assert isinstance(model, PeftModel) == (regime == "lora")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    collator = MMWFMDataCollator(MMWFMProcessor.from_pretrained(tmp_path / "run"), label_column="label")
    logits, labels = predict(model, splits["test"], collator)
    accuracy = np.mean(logits.argmax(1) == labels)
    assert accuracy == pytest.approx(results["test"]["accuracy"])
    assert not (tmp_path / "run" / "checkpoints").exists()
    card = ModelCard.load(tmp_path / "run" / "README.md")
    reported = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert reported["accuracy"] == results["test"]["accuracy"] and card.data.base_model == str(pretrained)
    # a second call reads the results, a changed one is refused
    assert finetune(str(pretrained), processor, splits, arguments) == results
    with pytest.raises(ValueError, match="same arguments"):
        finetune(str(pretrained), processor, splits, finetuning_arguments(tmp_path / "run", regime, seed=9))


def test_every_epoch_moves_the_carriers_anew_and_evaluations_never(pretrained, tmp_path, monkeypatch):
    shift_frequency, drawn = data_collator_mmwfm.shift_frequency, []

    def noting(iq, shifts):
        drawn.append(np.asarray(shifts).tolist())
        return shift_frequency(iq, shifts)

    monkeypatch.setattr(data_collator_mmwfm, "shift_frequency", noting)
    runs = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        arguments = finetuning_arguments(folder, "lp", num_train_epochs=3, carrier_shift=0.2, results_only=True)
        finetune(str(pretrained), MMWFMProcessor.from_pretrained(pretrained), tone_splits(), arguments)
        runs.append(list(drawn))
        drawn.clear()
    assert runs[0] == runs[1]
    # Three batches of an epoch, then the validation split; in the end that and the test split for the results.
    batches = [np.array(batch) for batch in runs[0]]
    epochs = np.stack([np.concatenate(batches[start : start + 3]) for start in (0, 4, 8)])
    assert epochs.shape == (3, 48) and len(np.unique(epochs)) == epochs.size and np.abs(epochs).max() <= 0.2
    assert len(batches) == 14
    for number in (7, 11, 12):
        np.testing.assert_array_equal(batches[number], batches[3])


def test_an_adapter_folder_names_its_base_and_holds_head_and_projections(pretrained, tmp_path):
    arguments = finetuning_arguments(tmp_path / "run", "lora", num_train_epochs=1)
    finetune(str(pretrained), MMWFMProcessor.from_pretrained(pretrained), tone_splits(), arguments)
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(pretrained)
    assert config["use_rslora"] and config["r"] == 4
    from safetensors import safe_open

    with safe_open(tmp_path / "run" / "adapter_model.safetensors", "pt") as file:
        keys = " ".join(file.keys())
    for part in (
        "classifier.weight",
        "projection.weight",
        "antenna_embeddings.weight",
        "q_proj.lora_A",
        "v_proj.lora_B",
    ):
        assert part in keys
    assert not re.search(r"k_proj|mlp", keys)


def test_an_adapter_that_does_not_fit_its_base_is_refused(pretrained, tmp_path):
    arguments = finetuning_arguments(tmp_path / "run", "lora", num_train_epochs=1)
    finetune(str(pretrained), MMWFMProcessor.from_pretrained(pretrained), tone_splits(), arguments)
    other = tmp_path / "other"
    MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny", num_hidden_layers=3)).save_pretrained(other)
    path = tmp_path / "run" / "adapter_config.json"
    path.write_text(path.read_text().replace(str(pretrained), str(other)))
    with pytest.raises(ValueError, match="`num_hidden_layers` 2.*found 3"):
        load_adapted(tmp_path / "run")


def test_positions_are_learned_in_metres(pretrained, tmp_path):
    splits = {
        name: image_rows(n, name, seed)
        for seed, (name, n) in enumerate({"train": 256, "validation": 32, "test": 32}.items())
    }
    processor = MMWFMProcessor.from_pretrained(pretrained)
    arguments = finetuning_arguments(
        tmp_path / "run", "full", num_train_epochs=20, base_learning_rate=0.05, results_only=True
    )
    result = finetune(str(pretrained), processor, splits, arguments)["test"]
    guess_the_mean_m = np.abs(np.asarray(splits["test"]["position"][:]) - 155).mean()
    assert result["mean_error_m"] < 0.6 * guess_the_mean_m
    assert result["median_error_m"] <= result["p90_error_m"]


def test_training_sets_of_one_class_are_refused():
    rows = tone_rows(8, "train", 0)
    with pytest.raises(ValueError, match="at least two classes.*'positive'"):
        target_settings(rows.select([1, 3, 5]))


def test_an_axis_on_which_nothing_moves_gets_a_box_of_a_metre():
    rows = image_rows(8, "train", 0)
    place_m = float(rows[0]["position"][0])
    _, head = target_settings(rows.select([0, 0]))
    assert (head["label_min"], head["label_max"]) == ([place_m - 0.5], [place_m + 0.5])
    assert target_settings(rows)[1]["label_min"] == [min(float(row["position"][0]) for row in rows)]


def test_a_label_budget_draws_so_many_rows_of_each_class_and_a_larger_one_holds_a_smaller():
    rows = tone_rows(40, "train", 0).select([*range(30), 31, 33, 35])  # 15 of class 0, 18 of class 1
    few, more, again, other = (
        list(draw_labels(rows, n, seed)["recording"]) for n, seed in [(2, 0), (6, 0), (6, 0), (6, 1)]
    )
    assert set(few) < set(more) and more == again and more != other
    assert np.bincount(draw_labels(rows, 6, 0)["label"][:]).tolist() == [6, 6]
    assert np.bincount(draw_labels(rows, 16, 0)["label"][:]).tolist() == [15, 16]
    assert draw_labels(rows, None, 0) is rows
    assert len(draw_labels(image_rows(20, "train", 0), 7, 0)) == 7
    with pytest.raises(ValueError, match="`samples_per_class`: expected at least 1, found 0"):
        draw_labels(rows, 0, 0)


def read_run(folder):
    results = json.loads((folder / "test_results.json").read_text())
    return results, json.loads((folder / "training_log.json").read_text()), {path.name for path in folder.iterdir()}


def test_a_small_budget_trains_for_the_least_steps_and_is_evaluated_as_often_as_there_are_epochs(pretrained, tmp_path):
    arguments = finetuning_arguments(
        tmp_path / "run", "lp", num_train_epochs=4, min_steps=10, samples_per_class=1, results_only=True
    )
    finetune(str(pretrained), MMWFMProcessor.from_pretrained(pretrained), tone_splits(), arguments)
    results, log, _ = read_run(tmp_path / "run")
    assert results["trained_rows"] == 2 and results["validation"]["rows"] == 16
    assert [row["step"] for row in log if "eval_loss" in row] == [3, 6, 9, 10]
    rates = [row["learning_rate"] for row in log if "learning_rate" in row]
    assert rates == sorted(rates, reverse=True)  # warm-up is a quarter, as of the epochs


@pytest.mark.parametrize("regime", ["ft1", "lora"])
def test_results_only_leaves_predictions_and_numbers_of_the_best_epoch(pretrained, tmp_path, regime):
    processor, splits = MMWFMProcessor.from_pretrained(pretrained), tone_splits()
    changes = dict(num_train_epochs=6, base_learning_rate=0.5, seed=1)
    kept = finetune(str(pretrained), processor, splits, finetuning_arguments(tmp_path / "all", regime, **changes))
    arguments = finetuning_arguments(tmp_path / "run", regime, **changes, results_only=True)
    again = finetune(str(pretrained), processor, splits, arguments)
    assert again | {"seconds": 0} == kept | {"seconds": 0}
    results, log, files = read_run(tmp_path / "run")
    assert files == {
        *("run.json", "training_log.json", "test_results.json", "validation_metrics.json", "test_metrics.json"),
        *("validation_predictions.npz", "test_predictions.npz"),
    }
    log = [row for row in log if "eval_loss" in row]
    best = max(log, key=lambda row: row["eval_mean_class_accuracy"])  # the first of several
    assert best["eval_mean_class_accuracy"] == results["validation"]["mean_class_accuracy"]
    predictions = np.load(tmp_path / "run" / "validation_predictions.npz")
    loss = log_loss(predictions["labels"], softmax(predictions["logits"], axis=1))
    assert loss == pytest.approx(best["eval_loss"], rel=1e-3)
    predictions = np.load(tmp_path / "run" / "test_predictions.npz")
    assert predictions["logits"].shape == (16, 2)
    assert np.array_equal(predictions["labels"], splits["test"]["label"][:])
    assert np.mean(predictions["logits"].argmax(1) == predictions["labels"]) == results["test"]["accuracy"]
    assert finetune(str(pretrained), processor, splits, arguments) == results


@pytest.mark.parametrize("metric, greater, values", [("accuracy", True, [5, 9, 9, 7]), ("error", False, [5, 1, 1, 3])])
def test_the_first_best_evaluation_is_the_one_that_is_kept(metric, greater, values):
    model, best = (
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)),
        KeepBest(),
    )
    model[2].requires_grad_(False)
    arguments = SimpleNamespace(metric_for_best_model=metric, greater_is_better=greater)
    for number, value in enumerate(values):
        for tensor in (model[0].weight.data, model[1].running_mean, model[2].weight.data):
            tensor.fill_(number)
        best.on_evaluate(arguments, None, None, model=model, metrics={f"eval_{metric}": value})
    best.restore(model)
    assert model[0].weight.unique() == 1 and model[1].running_mean.unique() == 1
    assert model[2].weight.unique() == 3  # frozen: not held


@pytest.mark.parametrize("regime", ["lora", "lp"])
def test_a_random_encoder_has_no_pretrained_weight_and_reloads_with_its_own(pretrained, tmp_path, regime):
    processor, splits = MMWFMProcessor.from_pretrained(pretrained), tone_splits()
    arguments = finetuning_arguments(tmp_path / "run", regime, num_train_epochs=2, random_encoder=True, seed=7)
    results = finetune(str(pretrained), processor, splits, arguments)
    adapted = load_adapted(tmp_path / "run")
    assert isinstance(adapted, MMWFMForSequenceClassification)
    base = MMWFMForPreTraining.from_pretrained(pretrained).state_dict()
    for name in ("mmwfm.layers.0.mlp.fc1.weight", "mmwfm.layers.1.attention.k_proj.weight"):
        assert np.abs((adapted.state_dict()[name] - base[name]).numpy()).mean() > 0.05
    collator = MMWFMDataCollator(processor, label_column="label")
    found = evaluate_task(adapted, splits["test"], collator, tmp_path / "again", "test", figures=False)
    assert found["confusion_matrix"] == results["test"]["confusion_matrix"]


@pytest.fixture(scope="module")
def iqfm(tmp_path_factory):
    """A checkpoint whose batch norms have seen tones."""
    folder = tmp_path_factory.mktemp("iqfm") / "base"
    torch.manual_seed(0)
    sizes = {"stem_channels": 8, "stage_channels": [16, 32], "stage_depths": [2, 2], "hidden_size": 64}
    model = IQFMForPreTraining(IQFMConfig(**sizes))
    rows = {"iq": tone_rows(32, "train", 0)}, {"iq": tone_rows(9, "validation", 1)}
    arguments = pretraining_arguments(folder, num_train_epochs=10, batch_size=16, base_learning_rate=0.05)
    pretrain(model, tiny_processor(), *rows, arguments)
    return folder


@pytest.mark.parametrize(
    "entrant, regime, changes",
    [
        ("mmwfm", "lp", {}),
        ("mmwfm", "lp", {"random_encoder": True}),
        ("mmwfm", "scratch", {}),
        ("iqfm", "lp", {}),
        ("iqfm", "ft2", {}),
        ("iqfm", "lora", {}),
        ("iqfm", "full", {}),
        ("iqfm", "lp", {"random_encoder": True}),
        ("iqfm", "scratch", {}),
    ],
)
def test_every_entrant_learns_the_same_task_by_the_same_function(pretrained, iqfm, tmp_path, entrant, regime, changes):
    base, splits = {"mmwfm": pretrained, "iqfm": iqfm}[entrant], tone_splits()
    arguments = finetuning_arguments(tmp_path / "run", regime, num_train_epochs=12, **changes)
    results = finetune(str(base), MMWFMProcessor.from_pretrained(base), splits, arguments)
    assert results["test"]["mean_class_accuracy"] > 0.85
    model = load_adapted(tmp_path / "run")
    assert isinstance(model, PeftModel) == (regime == "lora") and model.config.model_type == entrant
    collator = MMWFMDataCollator(MMWFMProcessor.from_pretrained(tmp_path / "run"), label_column="label")
    logits, _ = predict(model, splits["test"], collator)
    saved = np.load(tmp_path / "run" / "test_predictions.npz")["logits"]
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert ("Fresh weights" in card.text) == (regime == "scratch" or bool(changes))
    assert ("contrastive" in card.data.tags) == (entrant == "iqfm")
    np.testing.assert_allclose(logits, saved, rtol=1e-4, atol=1e-5)


def test_hand_features_stand_in_the_same_table(pretrained, tmp_path):
    splits = tone_splits()
    fit_baseline(LINEAR, splits, measure_splits(splits), 4, 1, tmp_path / "hand")
    arguments = finetuning_arguments(tmp_path / "run", "lp", samples_per_class=4, seed=1, results_only=True)
    finetune(str(pretrained), MMWFMProcessor.from_pretrained(pretrained), splits, arguments)
    results = [json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("hand", "run")]
    assert results[0]["test"].keys() == results[1]["test"].keys()
    assert results[0]["trained_rows"] == results[1]["trained_rows"] == 8
    for split in ("validation", "test"):
        hand, model = (np.load(tmp_path / name / f"{split}_predictions.npz") for name in ("hand", "run"))
        assert hand["logits"].shape == model["logits"].shape and np.array_equal(hand["labels"], model["labels"])


def test_an_image_model_of_one_family_is_adapted_the_same_way(tmp_path):
    MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny", modalities=["image"])).save_pretrained(
        tmp_path / "base"
    )
    splits = {name: image_rows(16, name, seed) for seed, name in enumerate(("train", "validation", "test"))}
    arguments = finetuning_arguments(tmp_path / "run", "lp", num_train_epochs=1, results_only=True)
    results = finetune(str(tmp_path / "base"), tiny_processor(), splits, arguments)
    assert results["trained_parameters"] == 65 + 257 * 64 + 2 * 64  # head, projection of 16 x 16 patches, affine
    assert np.isfinite(results["test"]["mean_error_m"])


def test_the_best_statistics_of_batch_norms_are_kept_with_the_best_weights(iqfm, tmp_path):
    processor, splits = MMWFMProcessor.from_pretrained(iqfm), tone_splits()
    changes = dict(num_train_epochs=6, base_learning_rate=1.0, seed=2)
    kept = finetune(str(iqfm), processor, splits, finetuning_arguments(tmp_path / "all", "full", **changes))
    arguments = finetuning_arguments(tmp_path / "run", "full", **changes, results_only=True)
    again = finetune(str(iqfm), processor, splits, arguments)
    assert again | {"seconds": 0} == kept | {"seconds": 0}
    predictions = [np.load(tmp_path / name / "validation_predictions.npz")["logits"] for name in ("all", "run")]
    assert np.array_equal(*predictions)


def test_an_adapter_of_iqfm_is_refused_by_a_base_of_other_antennas_and_by_another_kind(iqfm, pretrained, tmp_path):
    arguments = finetuning_arguments(tmp_path / "run", "lora", num_train_epochs=1)
    finetune(str(iqfm), MMWFMProcessor.from_pretrained(iqfm), tone_splits(), arguments)
    path = tmp_path / "run" / "adapter_config.json"
    written = path.read_text()
    config = IQFMConfig.from_pretrained(iqfm, num_antennas=2)
    IQFMForSequenceClassification(config).save_pretrained(tmp_path / "other")
    for base, message in ((tmp_path / "other", "`num_antennas` 4.*found 2"), (pretrained, "`model_type` iqfm")):
        path.write_text(written.replace(str(iqfm), str(base)))
        with pytest.raises(ValueError, match=message):
            load_adapted(tmp_path / "run")


def test_the_baseline_is_pretrained_by_the_same_engine_and_its_card_says_what_it_is(iqfm):
    log, card = json.loads((iqfm / "training_log.json").read_text()), ModelCard.load(iqfm / "README.md")
    assert log[-1]["step"] == 20 and f"iq {log[-1]['validation_iq_loss']:.4f}" in card.text
    assert "SimCLR" in card.text and "masked" not in card.text


def test_pooling_is_refused_where_there_is_only_one(iqfm, tmp_path):
    with pytest.raises(ValueError, match="`pooling`: expected none for a model of type iqfm, found 'mean'"):
        arguments = finetuning_arguments(tmp_path / "run", "lp", pooling="mean")
        finetune(str(iqfm), tiny_processor(), tone_splits(), arguments)


def test_input_that_a_checkpoint_has_no_part_for_is_refused(pretrained, tmp_path):
    config = MMWFMConfig.from_pretrained(PRESETS / "tiny", modalities=["image"])
    MMWFMForPreTraining(config).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"modalities \['image'\], found \['iq'\]"):
        finetune(str(tmp_path / "base"), tiny_processor(), tone_splits(), finetuning_arguments(tmp_path / "run", "lp"))
    assert not (tmp_path / "run").exists()


def test_detection_and_classification_of_interference_by_hand():
    labels = np.array([0, 0, 1, 1, 2, 2])
    logits = np.log(
        [
            [0.8, 0.1, 0.1],  # undisturbed, found so
            [0.1, 0.8, 0.1],  # a false alarm
            [0.1, 0.8, 0.1],
            [0.6, 0.1, 0.3],  # missed, and QPSK of the two
            [0.1, 0.2, 0.7],
            [0.1, 0.7, 0.2],  # found, as the wrong one
        ]
    )
    expected = {"intd_accuracy": (1 / 2 + 3 / 4) / 2, "intc_accuracy": 1 / 2}
    assert interference_report(logits, labels) == pytest.approx(expected)
    order = [2, 0, 1]
    renamed = interference_report(logits[:, order], np.argsort(order)[labels], ["QPSK", "none", "BPSK"])
    assert renamed == pytest.approx(expected)
    with pytest.raises(ValueError, match="found none of \\['bpsk-dsss'\\]"):
        interference_report(logits[[0, 5]], labels[[0, 5]])
    with pytest.raises(ValueError, match="one with 'bpsk'"):
        interference_report(logits, labels, ["a", "b", "c"])


def test_metrics_on_numbers_done_by_hand():
    report = ClassificationReport(keep_in_memory=True).compute(
        predictions=[0, 0, 1, 1, 1], references=[0, 0, 0, 1, 1], num_classes=3
    )
    assert report["mean_class_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert report["accuracy"] == pytest.approx(0.8)
    assert report["macro_f1"] == pytest.approx((0.8 + 0.8) / 2)
    assert report["confusion_matrix"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    errors = LocalizationError(keep_in_memory=True).compute(
        predictions=[[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]], references=[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    )
    assert errors["mean_error_m"] == pytest.approx(2) and errors["median_error_m"] == pytest.approx(1)
    assert errors["p90_error_m"] == pytest.approx(4.2)


def test_a_run_without_validation_is_refused(pretrained, tmp_path):
    with pytest.raises(ValueError, match="train and validation"):
        finetune(
            str(pretrained),
            tiny_processor(),
            {"train": tone_rows(8, "train", 0)},
            finetuning_arguments(tmp_path / "run", "lp"),
        )
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
