"""IQ is adapted as samples, as its spectrogram, or as both in one joint input."""

import numpy as np
import pytest
from datasets import concatenate_datasets
from peft import PeftModel
from safetensors.torch import load_file
from transformers import pipeline

from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator
from modeling_mmwfm.evaluation_mmwfm import predict
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune, load_adapted
from modeling_mmwfm.inputs_mmwfm import InputArguments, adapt_processor
from modeling_mmwfm.recipes_mmwfm import run_script
from tests.small_sets import image_rows, tiny_pretraining_model, tiny_processor, tone_rows
from tests.test_recipes import script

BOTH = ["iq", "spectrogram"]
SETTINGS = dict(num_train_epochs=6, warmup_epochs=1, batch_size=16, base_learning_rate=0.05, lora_rank=4, lora_alpha=8)
SETTINGS |= dict(mixed_precision="no")  # the same numbers on every machine


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_pretraining_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tones():
    return {"train": tone_rows(48, "train", 0), "validation": tone_rows(8, "validation", 1)}


def adapt(base, splits, folder, **changes):
    """With a spectrogram of 32 rows, so that 128 samples have 13 frames."""
    processor = adapt_processor(
        tiny_processor(), InputArguments(spectrogram_fft=32, spectrogram_hop=8), splits["train"]
    )
    return finetune(base, processor, splits, FinetuningArguments(output_dir=str(folder), **SETTINGS | changes))


def test_an_adapter_of_both_views_holds_both_projections_and_is_opened_by_the_pipeline(base, tones, tmp_path):
    results = adapt(base, tones, tmp_path / "both", iq_views=BOTH)
    assert results["validation"]["mean_class_accuracy"] == 1
    names = load_file(tmp_path / "both" / "adapter_model.safetensors")
    assert {"iq_embeddings", "image_embeddings"} <= {part for name in names for part in name.split(".")}

    model = load_adapted(tmp_path / "both")
    assert isinstance(model, PeftModel)
    processor = tiny_processor().from_pretrained(tmp_path / "both")
    collator = MMWFMDataCollator(processor, label_column="label", views=BOTH)
    logits, _ = predict(model, tones["validation"], collator, 8)
    saved = np.load(tmp_path / "both" / "validation_predictions.npz")["logits"]
    np.testing.assert_allclose(logits, saved, atol=1e-5)

    classify = pipeline("signal-classification", model=str(tmp_path / "both"), trust_remote_code=True)
    rows = tones["validation"][:]
    found = [classify(row, views=BOTH, sampling_rate_hz=1e6)[0]["label"] for row in rows["iq"]]
    assert found == [["negative", "positive"][label] for label in rows["label"]]


def test_the_views_of_an_evaluation_are_those_of_the_training(base, tones, tmp_path, monkeypatch):
    adapt(base, tones, tmp_path / "model", iq_views=BOTH, regime="full")
    (tmp_path / "data").mkdir()
    tones["validation"].to_parquet(tmp_path / "data" / "test.parquet")
    evaluation = script("evaluate_model")
    line = f"--model {tmp_path}/model --dataset {tmp_path}/data --output_dir {tmp_path}/out"
    monkeypatch.setattr("sys.argv", ["evaluate_model.py", *line.split()])
    run_script(evaluation.main, evaluation.EvaluationArguments)
    trained, evaluated = (
        np.load(tmp_path / name)["logits"] for name in ("model/validation_predictions.npz", "out/test_predictions.npz")
    )
    np.testing.assert_allclose(evaluated, trained, atol=1e-5)


def test_of_a_spectrogram_alone_the_image_projection_trains_and_that_of_iq_stays(base, tones, tmp_path):
    results = adapt(base, tones, tmp_path / "run", iq_views=["spectrogram"], regime="full", carrier_shift=0.01)
    assert results["validation"]["mean_class_accuracy"] == 1
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (base, tmp_path / "run"))
    part = {family: f"mmwfm.{family}_embeddings.projection.weight" for family in ("iq", "image")}
    assert (before[part["iq"]] == after[part["iq"]]).all()
    assert (before[part["image"]] != after[part["image"]]).any()


def test_views_of_iq_are_refused_where_there_are_images_already(base, tmp_path):
    both = {
        split: concatenate_datasets([tone_rows(8, split, 0), image_rows(8, split, 1).select_columns("image")], axis=1)
        for split in ("train", "validation")
    }
    with pytest.raises(ValueError, match=r"`iq_views`: expected \['iq'\] for rows that have images"):
        adapt(base, both, tmp_path / "run", iq_views=BOTH)


def test_unknown_views_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`iq_views`: expected 'iq', 'spectrogram' or both"):
        FinetuningArguments(output_dir=str(tmp_path), iq_views=["waterfall"])
