"""Sources of pretraining beside the paper's two: CSI as Doppler, narrow-band and joint IQ, augmented and second views."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining, MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm import pretraining_mmwfm as pretraining
from modeling_mmwfm.augmentation_mmwfm import Augmentations
from modeling_mmwfm.cells_mmwfm import take_views
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator
from modeling_mmwfm.figures_mmwfm import reconstruct
from modeling_mmwfm.inputs_mmwfm import InputArguments, adapt_image_processor, adapt_processor, pretraining_processors
from processing.schema import image_features
from tests.small_sets import PRESETS, common, image_rows, pretraining_arguments, tiny_processor, tone_rows

SHORT = {"num_train_epochs": 3, "save_epochs": 1, "eval_epochs": 3, "base_learning_rate": 0.01}
AUGMENTATIONS = {"narrowband": {"snr_db": [5, 20], "carrier_shift": 0.1}, "csi": {"packet_gain_db": 2.0}}
DOPPLER = InputArguments(
    normalization="dataset", csi_to_db=True, remove_packet_mean=True, doppler_groups=2, image_width=32
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def csi_rows(count, seed, rate_hz=100.0):
    """Amplitude (1, 16, 96): a path whose phase turns at 10 to 20 Hz, and by one turn over the subcarriers."""
    generator, rows = np.random.default_rng(seed), []
    for row in range(count):
        turns = generator.uniform(10, 20) / 100 * np.arange(96) + np.arange(16)[:, None] / 16
        image = np.abs(1 + 0.5 * np.exp(2j * np.pi * turns) + 0.02 * generator.standard_normal((1, 16, 96)))
        rows.append({"image": image.astype(np.float32), **common(row, "train"), "sampling_rate_hz": rate_hz})
    return Dataset.from_list(rows, features=image_features(1, 16, 96)).with_format("numpy")


def doppler_processor(rows):
    return adapt_processor(tiny_processor(), DOPPLER, rows)


def joint_processor():
    processor = tiny_processor()
    processor.feature_extractor.n_fft, processor.feature_extractor.hop_length = 32, 8
    return processor


def tiny_model(**settings):
    torch.manual_seed(0)
    return MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny", **settings))


def run(folder, **changes):
    """All four sources, the IQ beside its spectrogram, two augmented views of two of them."""
    csi = csi_rows(8, 1)
    train = {
        "narrowband": tone_rows(8, "train", 0),
        "csi": csi,
        "image": image_rows(8, "train", 1),
        "iq": tone_rows(16, "train", 2),
    }
    model = tiny_model(
        contrastive_weight=0.1, cross_view_masking=0.5, iq_targets={"log_spectrum": 1.0, "waveform": 0.5}
    )
    settings = {**SHORT, "iq_views": ["iq", "spectrogram"], "augmentations": json.dumps(AUGMENTATIONS), **changes}
    arguments = pretraining_arguments(folder, **settings)
    return pretraining.pretrain(model, joint_processor(), train, {}, arguments, csi_processor=doppler_processor(csi))


def test_all_sources_train_together_and_resume_exactly(tmp_path, monkeypatch):
    log = run(tmp_path / "whole")
    assert {"image_loss", "csi_loss", "iq_loss", "narrowband_loss"} <= log[-1].keys()
    pictures = {path.stem for path in (tmp_path / "whole").glob("reconstruction_*.png")}
    joint = {f"{source}_{part}" for source in ("iq", "narrowband") for part in ("image", "waveform", "log_spectrum")}
    assert pictures == {f"reconstruction_{name}" for name in joint | {"image", "csi"}}
    save = pretraining.save_checkpoint

    def save_and_stop(accelerator, output_dir, step, keep):
        save(accelerator, output_dir, step, keep)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "resumed")
    run(tmp_path / "resumed")
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_second_view_is_the_same_rows_under_other_draws():
    augmentations = Augmentations(snr_db=(0, 10), phase_rad=np.pi)
    collator = MMWFMDataCollator(tiny_processor(), augmentations=augmentations, second_view=True)
    rows = tone_rows(4, "train", 0)[:]
    first, again, other = (collator(rows, generator=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.keys() == {"iq_values", "positive_iq_values"}
    assert torch.equal(first["positive_iq_values"], again["positive_iq_values"])
    assert not torch.allclose(first["iq_values"], first["positive_iq_values"])
    assert not torch.allclose(first["positive_iq_values"], other["positive_iq_values"])
    # Both views still hold the row's tone, of positive or of negative frequency.
    for values in (first["iq_values"], first["positive_iq_values"]):
        spectrum = torch.fft.fft(torch.complex(values[:, 0, 0], values[:, 0, 1])).abs()
        assert ((spectrum.argmax(1) < 64) == torch.from_numpy(rows["label"] == 1)).all()
    # Without a generator, as in evaluation, rows are left alone.
    assert torch.equal(collator(rows)["iq_values"], MMWFMDataCollator(tiny_processor())(rows)["iq_values"])


def test_second_views_need_augmentations():
    with pytest.raises(ValueError, match="`second_view`: expected `augmentations`"):
        MMWFMDataCollator(tiny_processor(), second_view=True)


def test_iq_beside_its_spectrogram_is_one_joint_batch():
    batch = MMWFMDataCollator(joint_processor(), views=("iq", "spectrogram"))(tone_rows(3, "train", 0)[:])
    assert batch["iq_values"].shape == (3, 1, 2, 128) and batch["pixel_values"].shape == (3, 1, 32, 32)
    # The tone is in the lower or upper half of the rows, frequency from -fs/2 up.
    energy = batch["pixel_values"].mean(3)[:, 0]
    assert (energy.argmax(1) > 16).tolist() == [False, True, False]


@pytest.mark.parametrize("target", ["log_spectrum", "waveform"])
def test_reconstructions_keep_what_is_visible(target):
    model = tiny_model(iq_targets={target: 1.0}).eval()
    batch = MMWFMDataCollator(tiny_processor())(tone_rows(2, "train", 0)[:])
    (name, (original, masked, found, _)), *others = reconstruct(model, batch).items()
    assert name == target and not others
    visible = ~np.isnan(masked)
    assert 0.2 < visible.mean() < 0.4
    np.testing.assert_array_equal(found[visible], original[visible])
    assert np.abs(found - original)[~visible].mean() > 0.01
    if target == "waveform":
        np.testing.assert_allclose(original, batch["iq_values"].numpy(), atol=1e-6)
    else:  # (antennas, frequency up, time): the first row's tone is below, the second's above the middle
        assert original.shape == (2, 1, 16, 8)
        assert (original.mean(3)[:, 0].argmax(1) < 8).tolist() == [False, True]


def test_csi_views_of_a_recipe_reach_the_processor():
    rows = csi_rows(6, 0)
    processor = doppler_processor(rows)
    assert processor.image_processor.packet_rate_hz == 100 and len(processor.image_processor.image_mean) == 1
    pixel_values = MMWFMDataCollator(processor)(rows[:])["pixel_values"]
    assert pixel_values.shape == (6, 1, 32, 32)
    # Of 16 bins of 100 / 32 Hz the motion's, 10 to 20 Hz, are the strongest but for the static ones.
    strongest = 2 + pixel_values.mean(3)[:, 0, 2:16].argmax(1)
    assert ((strongest >= 3) & (strongest <= 7)).all()


def test_csi_of_another_packet_rate_is_converted():
    processor = doppler_processor(csi_rows(6, 0))
    faster = csi_rows(6, 0, rate_hz=200.0)
    found = MMWFMDataCollator(processor)(faster[:])["pixel_values"]
    assert torch.isfinite(found).all()
    # The same turns per packet are twice the Doppler frequency.
    strongest = 2 + found.mean(3)[:, 0, 2:16].argmax(1)
    assert ((strongest >= 6) & (strongest <= 14)).all()


def test_views_taken_once_give_the_model_the_same_input():
    rows = csi_rows(6, 0)
    processor = doppler_processor(rows)
    expected = MMWFMDataCollator(processor)(rows[:])["pixel_values"]
    seen, rest = take_views({"train": rows}, processor)
    assert seen["train"].features["image"].shape == (1, 32, 32)
    found = MMWFMDataCollator(rest)(seen["train"][:])["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ('["iq"]', "expected a mapping"),
        ('{"radar": {}}', "expected for some of"),
        ('{"iq": {"snr": [0, 1]}}', "expected for some of"),
        ('{"iq": {"snr_db": [3, 1]}}', "ascending"),
    ],
)
def test_bad_augmentations_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretraining_arguments(tmp_path, augmentations=text)


def test_unknown_iq_views_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`iq_views`: expected 'iq', 'spectrogram' or both"):
        pretraining_arguments(tmp_path, iq_views=["waterfall"])


def test_normalised_targets_are_drawn_at_the_level_and_spread_of_their_tokens():
    model = tiny_model(normalize_targets=True).eval()
    torch.nn.init.zeros_(model.decoder.heads["image"].weight)  # predicts the mean of every token
    torch.nn.init.zeros_(model.decoder.heads["image"].bias)
    batch = MMWFMDataCollator(tiny_processor())(image_rows(2, "train", 0)[:])
    found = reconstruct(model, batch)["image"]
    patches = [part.reshape(2, 2, 16, 2, 16).mean((2, 4)) for part in (found.original, found.reconstructed)]
    np.testing.assert_allclose(patches[1], patches[0], atol=1e-5)
    hidden = np.isnan(found.masked)
    assert hidden.mean() == pytest.approx(found.hidden.mean()) and not np.allclose(
        found.reconstructed[hidden], found.original[hidden], atol=0.1
    )


def test_options_of_a_recipe_leave_the_rest_of_an_image_processor_alone():
    doppler = doppler_processor(csi_rows(4, 0)).image_processor
    changed = adapt_image_processor(doppler, {"remove_time_mean": True})
    assert changed.remove_time_mean and changed.doppler == doppler.doppler and changed.size == doppler.size
    assert changed.packet_rate_hz == doppler.packet_rate_hz
    kept = MMWFMImageProcessor(keep_size=True)
    assert adapt_image_processor(kept, {"csi_to_db": True}).size is None
    assert adapt_image_processor(kept, {"image_width": 64}).size == {"height": 224, "width": 64}


def test_options_of_a_recipe_set_the_spectrogram_view_of_iq():
    options = InputArguments(spectrogram_fft=64, spectrogram_hop=16, center_peak=True)
    rows = tone_rows(4, "train", 0)
    processor = adapt_processor(tiny_processor(), options, rows)
    image = processor.spectrogram(rows[:]["iq"])
    samples = rows[0]["iq"].shape[-2]
    assert image.shape == (4, 1, 64, 1 + (samples - 64) // 16)
    assert ((10 ** (image / 10)).mean((1, 3)).argmax(1) == 32).all()


@pytest.mark.parametrize("rate_hz", [50.0, 100.0, 125.0])
def test_csi_is_converted_to_the_packet_rate_of_a_recipe(rate_hz):
    options = InputArguments(csi_to_db=True, packet_rate_hz=50.0, doppler_groups=2, image_width=32)
    processor = adapt_processor(tiny_processor(), options, csi_rows(4, 0))  # of 100 packets a second
    assert processor.image_processor.packet_rate_hz == 50.0
    amplitude = 1 + 0.2 * np.cos(2 * np.pi * 10 / rate_hz * np.arange(int(4 * rate_hz)))
    image = np.broadcast_to(amplitude, (1, 1, 16, len(amplitude))).astype(np.float32)
    found = MMWFMDataCollator(processor)({"image": image, "sampling_rate_hz": [rate_hz]})["pixel_values"]
    strongest = 2 + found.mean(3)[:, 0, 2:16].argmax(1)  # beside the static channel in bins 0 and 1
    assert strongest.tolist() == [round(10 / 50 * 32)]  # a bin is 1 / 32 cycle per packet


def test_views_of_images_that_keep_their_size_are_taken_by_the_processor():
    rows, processor = csi_rows(4, 0), tiny_processor()
    processor.image_processor = adapt_image_processor(MMWFMImageProcessor(keep_size=True), {"csi_to_db": True})
    seen, rest = take_views({"train": rows}, processor)
    assert seen["train"] is rows and rest is processor


def test_pretraining_sees_csi_as_the_processor_shows_it_unless_the_recipe_says_otherwise():
    keys = ("csi_doppler_groups", "csi_normalization", "csi_width", "csi_remove_time_mean")
    data = SimpleNamespace(**dict.fromkeys(keys), normalization="sample", image_height=32, image_width=32)
    vars(data).update({"center_carrier": False, "spectrogram_fft": 64, "spectrogram_hop": 32, "center_peak": False})
    csi = 30 + np.random.default_rng(0).standard_normal((2, 1, 56, 128)).astype(np.float32)
    processor, source = pretraining_processors(data)
    expected = MMWFMProcessor()(csi=csi)["pixel_values"]
    assert torch.equal(source(images=csi)["pixel_values"], expected)
    assert torch.equal(processor(csi=csi)["pixel_values"], expected)
    data.csi_doppler_groups, data.csi_remove_time_mean, data.csi_normalization = 14, False, "sample"
    other = pretraining_processors(data)[1].image_processor
    assert other.doppler["num_groups"] == 14 and other.size == {"height": 224, "width": 128}
    assert not other.remove_time_mean and other.csi_to_db and other.normalization == "sample"
