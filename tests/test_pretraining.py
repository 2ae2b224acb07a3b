"""Pretraining: batches, exact resumption, saved results."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard

from modeling_mmwfm import MMWFMForPreTraining
from modeling_mmwfm import pretraining_mmwfm as pretraining
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, shift_carrier
from tests.small_sets import image_rows, run_pretraining, tiny_pretraining_model, tiny_processor, tone_rows


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
