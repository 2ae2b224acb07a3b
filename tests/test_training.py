"""Pretraining and fine-tuning: what trains, exact resumption, saved and loaded results."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import PeftModel

from modeling_mmwfm import (
    MMWFMConfig,
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMProcessor,
)
from modeling_mmwfm import pretraining_mmwfm as pretraining
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, shift_carrier
from modeling_mmwfm.evaluation_mmwfm import predict
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, apply_regime, finetune, load_adapted, target_settings
from modeling_mmwfm.metrics_mmwfm import ClassificationReport, LocalizationError
from processing.schema import image_features, iq_features

PRESETS = Path(__file__).parents[1] / "configuration" / "models"
SMALL_IMAGES = {"height": 32, "width": 32}


def common(row, split):
    return {
        "recording": f"{split}{row}",
        "group": f"{split}{row}",
        "split": split,
        "sampling_rate_hz": 1e6,
        "center_frequency_hz": 0.0,
        "start": 0,
        "parameters": "{}",
        "source": "test",
    }


def tone_rows(count, split, seed):
    """Two classes: a tone of positive or of negative frequency in noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        frequency = (0.05 if row % 2 else -0.05) * generator.uniform(0.8, 1.2)
        signal = np.exp(2j * np.pi * (frequency * np.arange(128) + generator.random()))
        signal = signal + 0.1 * (generator.standard_normal(128) + 1j * generator.standard_normal(128))
        iq = np.stack([signal.real, signal.imag], -1)[None].astype(np.float32)
        rows.append({"iq": iq, "label": row % 2, **common(row, split)})
    return Dataset.from_list(rows, features=iq_features(1, 128, ["negative", "positive"])).with_format("numpy")


def image_rows(count, split, seed):
    """A bright column whose place gives the position in metres."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        place = generator.integers(0, 32)
        image = 0.1 * generator.standard_normal((1, 32, 32))
        image[0, :, place] += 2
        rows.append({"image": image.astype(np.float32), "position": [10.0 * place], **common(row, split)})
    return Dataset.from_list(rows, features=image_features(1, 32, 32, position_axes=["x"])).with_format("numpy")


def tiny_processor():
    return MMWFMProcessor(MMWFMFeatureExtractor(), MMWFMImageProcessor(size=SMALL_IMAGES))


def tiny_pretraining_model():
    torch.manual_seed(0)
    return MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny"))


def pretraining_arguments(folder, **changes):
    settings = dict(num_train_epochs=15, warmup_epochs=1, batch_size=8, save_epochs=2, logging_steps=1, eval_epochs=5)
    settings |= dict(base_learning_rate=0.1)
    return pretraining.PretrainingArguments(output_dir=str(folder), **{**settings, **changes})


def run_pretraining(folder, **changes):
    train = {"iq": tone_rows(24, "train", 0), "image": image_rows(16, "train", 1)}
    validation = {"iq": tone_rows(6, "validation", 2), "image": image_rows(6, "validation", 3)}
    return pretraining.pretrain(
        tiny_pretraining_model(), tiny_processor(), train, validation, pretraining_arguments(folder, **changes)
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run_pretraining(folder)
    return folder


def test_a_step_takes_a_mini_batch_of_each_family_and_sums_their_gradients():
    model, processor = tiny_pretraining_model(), tiny_processor()
    collator = MMWFMDataCollator(processor)
    batches = [collator(tone_rows(4, "train", 0)[:]), collator(image_rows(4, "train", 1)[:])]
    noise = [{"iq_noise": torch.rand(4, 8)}, {"image_noise": torch.rand(4, 4)}]
    for batch, values in zip(batches, noise):
        model(**batch, **values).loss.backward()
    summed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    # `labels` apart, both families in two separate sequences must give the gradients of the summed loss.
    sum(model(**batch, **values).loss for batch, values in zip(batches, noise)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, summed[name], msg=name)


def test_every_pass_visits_every_row_once_and_the_shorter_family_restarts():
    rows = Dataset.from_dict({"number": list(range(12))}).with_format("numpy")
    batches = pretraining.StepBatches(rows, lambda columns, generator: columns["number"], 4, 9, seed=3)
    passes = [np.concatenate([batches[step] for step in range(start, start + 3)]) for start in (0, 3, 6)]
    for visited in passes:
        assert sorted(visited) == list(range(12))
    assert not np.array_equal(passes[0], passes[1])


def test_processes_share_a_batch_without_overlap():
    rows = Dataset.from_dict({"number": list(range(12))}).with_format("numpy")
    parts = [
        pretraining.StepBatches(rows, lambda columns, generator: columns["number"], 4, 3, 0, rank, 2)[1]
        for rank in (0, 1)
    ]
    whole = pretraining.StepBatches(rows, lambda columns, generator: columns["number"], 4, 3, 0)[1]
    assert sorted(np.concatenate(parts)) == sorted(whole)


def test_pretraining_lowers_the_loss_and_leaves_a_hub_ready_folder(pretrained):
    log = json.loads((pretrained / "training_log.json").read_text())
    for loss in ("iq_loss", "image_loss"):
        assert np.mean([row[loss] for row in log[-6:]]) < 0.95 * np.mean([row[loss] for row in log[:3]])
    assert {"validation_iq_loss", "validation_image_loss"} <= log[-1].keys()
    names = {path.name for path in pretrained.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "modeling_mmwfm.py"} <= names
    assert {"losses.png", "reconstruction_iq.png", "reconstruction_image.png"} <= names
    assert not [name for name in names if name.startswith((".", "checkpoint"))]
    card = ModelCard.load(pretrained / "README.md")
    assert card.data.license == "apache-2.0" and f"{log[-1]['validation_iq_loss']:.4f}" in card.text


def test_an_interrupted_run_resumes_to_bit_equal_weights(pretrained, tmp_path, monkeypatch):
    save, folder = pretraining.save_checkpoint, tmp_path / "run"

    def save_and_stop(accelerator, output_dir, step, keep):
        save(accelerator, output_dir, step, keep)
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run_pretraining(folder)
    monkeypatch.setattr(pretraining, "save_checkpoint", save)
    assert (folder / "checkpoint-6").is_dir() and not (folder / "model.safetensors").exists()
    run_pretraining(folder)
    expected, found = (MMWFMForPreTraining.from_pretrained(path).state_dict() for path in (pretrained, folder))
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(pretrained):
    before = (pretrained / "model.safetensors").stat().st_mtime_ns
    run_pretraining(pretrained)
    assert (pretrained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="other seed"):
        run_pretraining(pretrained, seed=5)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match="finite loss"):
        run_pretraining(tmp_path / "run", base_learning_rate=1e30, warmup_epochs=0)


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
    return FinetuningArguments(output_dir=str(folder), regime=regime, **{**settings, "layer_decay": 1.0, **changes})


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
    arguments = finetuning_arguments(tmp_path / "run", "full", num_train_epochs=20, base_learning_rate=0.05)
    result = finetune(str(pretrained), processor, splits, arguments)["test"]
    guess_the_mean_m = np.abs(np.asarray(splits["test"]["position"][:]) - 155).mean()
    assert result["mean_error_m"] < 0.6 * guess_the_mean_m
    assert result["median_error_m"] <= result["p90_error_m"]


def test_training_sets_of_one_class_are_refused():
    rows = tone_rows(8, "train", 0)
    with pytest.raises(ValueError, match="at least two classes.*'positive'"):
        target_settings(rows.select([1, 3, 5]))


def test_a_carrier_shift_moves_the_spectrum_by_that_share_of_the_rate():
    rows = tone_rows(1, "train", 0)
    iq = np.asarray(rows["iq"][:])
    shifted = shift_carrier(iq, np.array([0.25]))
    peaks = [np.fft.fftfreq(128)[np.abs(np.fft.fft(x[0, 0] @ [1, 1j])).argmax()] for x in (iq, shifted)]
    assert (peaks[1] - peaks[0]) % 1 == pytest.approx(0.25, abs=1 / 128)
    np.testing.assert_allclose(np.square(shifted).sum(-1), np.square(iq).sum(-1), rtol=1e-4)


def test_evaluation_shifts_a_row_the_same_way_in_any_batch():
    rows, collator = tone_rows(6, "test", 0), MMWFMDataCollator(tiny_processor(), carrier_shift=0.5)
    together = collator(rows[:])["iq_values"]
    assert torch.equal(together[4:5], collator(rows[4:5])["iq_values"])
    assert not torch.allclose(together, MMWFMDataCollator(tiny_processor())(rows[:])["iq_values"])


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
