"""IQFM, the IQ baseline: its size, padding, views, contrastive training, and that its folders open by themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from torch import nn

from modeling_mmwfm import (
    IQFMConfig,
    IQFMForPreTraining,
    IQFMForSequenceClassification,
    IQFMModel,
    MMWFMProcessor,
)
from modeling_mmwfm.modeling_iqfm import draw_view, simclr_loss
from modeling_mmwfm.regimes_mmwfm import apply_regime, decayed_groups
from tests.small_models import iq, pad_iq
from tests.small_sets import PRESETS

SMALL = {
    "stem_channels": 8,
    "stage_channels": [16, 24],
    "stage_depths": [2, 1],
    "hidden_size": 32,
    "projection_hidden_size": 16,
    "projection_size": 8,
}


def make(model_class, seed=0, **settings):
    """A model in evaluation mode whose batch norms have seen data: with fresh ones mistakes would hide."""
    torch.manual_seed(seed)
    model = model_class(IQFMConfig(**{**SMALL, **settings})).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor, mean in ((module.running_mean, 0.0), (module.running_var, 1.0), (module.bias.data, 0.3)):
                tensor.copy_(mean + 0.2 * torch.rand_like(tensor))
    return model


def test_the_preset_is_shufflenet_of_a_third_of_a_million_parameters():
    config = IQFMConfig.from_pretrained(PRESETS / "iqfm")
    assert config.to_dict() == IQFMConfig().to_dict()
    written = json.loads((PRESETS / "iqfm" / "config.json").read_text())
    assert set(written) <= set(IQFMConfig.__dataclass_fields__) | {"model_type"}
    model = IQFMModel(config).eval()
    # The published 0.34 M; of the 341,792 of torchvision's 0.5x features, 6,192 are the second dimension of depthwise
    # kernels and 72 the difference of a first kernel of 3 x 8 from 9 x 3.
    assert sum(parameter.numel() for parameter in model.parameters()) == 341_792 - 6_192 - 72
    with torch.no_grad():
        output = model(iq(2, 4, 1000))
    assert output.last_hidden_state.shape == (2, 32, 1024) and output.pooler_output.shape == (2, 1024)
    torch.testing.assert_close(output.last_hidden_state.mean(1), output.pooler_output)


def test_heads_give_classes_or_metres():
    model = make(IQFMForSequenceClassification, num_labels=3)
    output = model(iq(2, 4, 100), labels=torch.tensor([0, 2]))
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])))
    assert output.logits.shape == (2, 3)
    limits = {"problem_type": "regression", "num_labels": 2, "label_min": [0.0, 10.0], "label_max": [4.0, 30.0]}
    model = make(IQFMForSequenceClassification, **limits)
    target = torch.tensor([[1.0, 12.0], [3.0, 29.0]])
    output = model(iq(2, 4, 100), labels=target)
    scaled = (output.logits - target) / torch.tensor([2.0, 10.0])
    torch.testing.assert_close(output.loss, scaled.square().mean())
    with pytest.raises(ValueError, match="`labels`: expected shape"):
        model(iq(2, 4, 100), labels=torch.tensor([0, 1]))


@pytest.mark.parametrize("extra", [0, 1, 37])
def test_padded_recordings_give_what_they_give_alone(extra):
    model = make(IQFMModel)
    samples = [iq(1, antennas, length, seed=length)[0] for antennas, length in [(2, 100), (1, 61), (4, 33), (3, 8)]]
    with torch.no_grad():
        batch = model(**pad_iq(samples, fill=torch.nan, extra=extra))
        for row, sample in enumerate(samples):
            alone = model(sample[None])
            frames = alone.last_hidden_state.shape[1]
            torch.testing.assert_close(batch.pooler_output[row], alone.pooler_output[0])
            torch.testing.assert_close(batch.last_hidden_state[row, :frames], alone.last_hidden_state[0])
            assert not batch.last_hidden_state[row, frames:].any()


def test_scale_means_nothing_and_missing_antennas_are_zeros():
    model, recording = make(IQFMModel), iq(2, 2, 96)
    with torch.no_grad():
        expected = model(recording).pooler_output
        assert expected.std() > 0.1
        for scale in (1e-25, 1e25):
            torch.testing.assert_close(model(scale * recording).pooler_output, expected)
        silent = torch.cat([recording, torch.zeros(2, 2, 2, 96)], dim=1)
        torch.testing.assert_close(model(silent).pooler_output, expected)
        assert torch.isfinite(model(torch.zeros(1, 4, 2, 96)).pooler_output).all()
        swapped = torch.cat([torch.zeros(2, 2, 2, 96), recording], dim=1)
        assert not torch.allclose(model(swapped).pooler_output, expected, atol=1e-3)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"iq_values": iq(1, 5, 64)}, "expected at most 4 antennas, found 5"),
        ({"iq_values": iq(1, 2, 64)[0]}, "expected a floating-point tensor"),
        ({"iq_values": iq(1, 2, 64), "iq_attention_mask": torch.ones(1, 2, 63)}, "`iq_attention_mask`: expected"),
        ({"iq_values": iq(1, 2, 64), "pixel_values": torch.zeros(1, 1, 32, 32)}, "found images"),
        ({}, "found none"),
    ],
)
@pytest.mark.parametrize("model_class", [IQFMModel, IQFMForPreTraining, IQFMForSequenceClassification])
def test_wrong_input_is_refused_by_name(model_class, inputs, message):
    with pytest.raises(ValueError, match=message):
        make(model_class)(**inputs)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_antenas": 4}, "did you mean `num_antennas`"),
        ({"stage_channels": [24, 25]}, "`stage_channels`: expected even"),
        ({"stage_depths": [1]}, "`stage_depths`: expected 2 numbers"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"antenna_mask_ratio": 1.0}, "`antenna_mask_ratio`"),
        ({"modalities": ["image"]}, "`modalities`"),
        ({"label_min": [0.0]}, "both `label_min` and `label_max`"),
    ],
)
def test_wrong_configurations_are_refused_by_name(settings, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        IQFMConfig(**{**SMALL, **settings})


def test_views_are_cyclic_shifts_within_the_recording_and_leave_an_antenna():
    samples = [iq(1, antennas, length, seed=length)[0] for antennas, length in [(4, 50), (3, 33), (1, 40)] * 20]
    batch = pad_iq(samples)
    torch.manual_seed(0)
    values, mask = draw_view(batch["iq_values"], batch["iq_attention_mask"], 0.5)
    assert torch.equal(mask, batch["iq_attention_mask"])
    shifts, kept = [], []
    for view, sample in zip(values, samples):
        antennas, _, length = sample.shape
        loud = view[:antennas, :, :length].abs().amax((1, 2)) > 0
        found = [
            shift
            for shift in range(length)
            if torch.equal(sample.roll(-shift, dims=2)[loud], view[:antennas, :, :length][loud])
        ]
        assert len(found) == 1 and not view[:, :, length:].any() and not view[antennas:].any()
        shifts.append(found[0] / length)
        kept.append(loud.sum().item() / antennas)
        assert loud.any()
    assert min(shifts) < 0.1 and max(shifts) > 0.9  # anywhere in the recording
    assert len(set(kept[::3])) == 4 and set(kept[2::3]) == {1.0}
    torch.manual_seed(0)
    assert torch.equal(values, draw_view(batch["iq_values"], batch["iq_attention_mask"], 0.5)[0])
    whole, _ = draw_view(batch["iq_values"][:, :1], None, 0.0)
    assert (whole.abs().sum((2, 3)) > 0).all()


def test_the_contrastive_loss_is_that_of_simclr():
    projections, temperature = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)), 0.3
    flat, losses = projections.flatten(0, 1), []
    for one in range(10):
        similarity = [nn.functional.cosine_similarity(flat[one], flat[other], dim=0).item() for other in range(10)]
        weights = [np.exp(value / temperature) for value in similarity]
        losses.append(-np.log(weights[(one + 5) % 10] / (sum(weights) - weights[one])))
    assert simclr_loss(projections, temperature).item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert simclr_loss(torch.ones(2, 5, 8), 0.1).item() == pytest.approx(np.log(9), rel=1e-5)  # nothing told apart


def tones(frequencies, seed):
    generator = np.random.default_rng(seed)
    phase = (
        2
        * np.pi
        * (np.asarray(frequencies)[:, None, None] * np.arange(128) + generator.random((len(frequencies), 1, 1)))
    )
    noise = 0.3 * generator.standard_normal((len(frequencies), 2, 2, 128))
    tone = np.stack([np.cos(phase), np.sin(phase)], axis=2)
    return torch.tensor(tone + noise, dtype=torch.float32)


def test_training_draws_views_of_one_recording_together_and_away_from_others():
    model = make(IQFMForPreTraining).train()
    generator = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = model(tones(generator.uniform(-0.45, 0.45, 32), generator.integers(2**31))).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    assert losses[0] == pytest.approx(np.log(63), rel=0.5)
    model.eval()
    with torch.no_grad():
        first, second = nn.functional.normalize(model(tones(np.linspace(-0.4, 0.4, 8), 2)).projections, dim=-1)
        similarity = first @ second.T
        untrained = make(IQFMForPreTraining)(tones(np.linspace(-0.4, 0.4, 8), 2)).projections
        before = nn.functional.normalize(untrained, dim=-1)
    assert (similarity.argmax(1) == torch.arange(8)).sum() >= 7  # neighbours in frequency are close
    others = ~torch.eye(8, dtype=torch.bool)
    gap = similarity.diag().mean() - similarity[others].mean()
    assert gap > 0.5 > (before[0] @ before[1].T).diag().mean() - (before[0] @ before[1].T)[others].mean()


def test_one_recording_has_nothing_to_be_told_from():
    model = make(IQFMForPreTraining)
    assert model(iq(1, 2, 64)).loss == 0
    with pytest.raises(ValueError, match="at least two recordings"):
        model.train()(iq(1, 2, 64))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "regime, expected",
    [
        # head 4,100; first convolution 576; last convolution with its norm 198,656; last stage 87,072
        ("strict", 4_100),
        ("lp", 4_100 + 576),
        ("ft1", 4_100 + 576 + 198_656),
        ("ft2", 4_100 + 576 + 198_656 + 87_072),
        # rank 8 at both ends of every 1x1 convolution: 3 stages, and the last of 192 -> 1,024
        (
            "lora",
            4_100
            + 576
            + 8 * (2 * (24 + 24) + (24 + 24) + 3 * 2 * 48)
            + 8 * (2 * (48 + 48) + (48 + 48) + 7 * 2 * 96)
            + 8 * (2 * (96 + 96) + (96 + 96) + 3 * 2 * 192)
            + 8 * (192 + 1024),
        ),
        ("full", 335_528 + 4_100),
    ],
)
def test_regimes_train_head_first_convolution_and_the_last_stages(regime, expected):
    model = IQFMForSequenceClassification(IQFMConfig.from_pretrained(PRESETS / "iqfm", num_labels=4))
    model = apply_regime(model, regime, ["iq"], lora_rank=8)
    assert count(model) == expected
    groups = decayed_groups(model, 1.0, 0.5, 0.05)
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == expected
    rates = {group["lr"] for group in groups}
    depths = {"strict": {1}, "lp": {1, 1 / 32}, "ft1": {1, 1 / 2, 1 / 32}, "ft2": {1, 1 / 2, 1 / 4, 1 / 32}}
    assert rates == depths.get(regime, {1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32})
    if regime == "ft1":
        with pytest.raises(ValueError, match="at most ft4"):
            apply_regime(model, "ft5", ["iq"])


@pytest.mark.parametrize("regime", ["strict", "lp", "ft1", "lora", "full"])
def test_frozen_batch_norms_keep_their_statistics(regime):
    model = apply_regime(make(IQFMForSequenceClassification, num_labels=2), regime, ["iq"], lora_rank=2)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()  # as the Trainer does before every step
    model(iq_values=iq(4, 4, 64), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    changed = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    if isinstance(model, PeftModel) or regime in ("strict", "lp"):
        assert not changed
    elif regime == "ft1":
        assert changed and all(".stages.2." in name for name in changed)
    else:
        assert changed == before.keys()


@pytest.mark.parametrize("model_class", [IQFMModel, IQFMForPreTraining, IQFMForSequenceClassification])
def test_all_parameters_and_statistics_are_bit_equal_after_reloading(model_class, tmp_path):
    model = make(model_class)
    model.save_pretrained(tmp_path)
    again, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


# Loads from argv[1] what this process saved, without the package, saves again to argv[2] and loads that.
READER = """
import sys
sys.modules["modeling_mmwfm"] = None
import numpy as np, torch, transformers
first, second, result = sys.argv[1:]
recording = np.load(first + "/recording.npy")
found = []
for folder in (first, second):
    load = lambda name: getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
    processor = load("AutoProcessor")
    batch = processor(iq=recording, sampling_rate_hz=1e6)
    models = {}
    for name in ("", "ForPreTraining", "ForSequenceClassification", "ForAudioClassification"):
        model = load("AutoModel" + name).eval()
        assert "transformers_modules" in type(model).__module__, type(model)
        models[name] = model
        with torch.no_grad():
            torch.manual_seed(3)
            output = model(**batch)
        key = {"": "pooler_output", "ForPreTraining": "loss"}.get(name)
        found.append(None if key is None else output[key])
    models["ForPreTraining"].save_pretrained(second)
    processor.save_pretrained(second)
torch.save(found, result)
"""


def test_a_fresh_process_computes_the_same_from_the_folder_and_from_its_copy(tmp_path):
    model, processor = make(IQFMForPreTraining), MMWFMProcessor()
    generator = np.random.default_rng(0)
    recording = generator.standard_normal((2, 4, 300)) + 1j * generator.standard_normal((2, 4, 300))
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    np.save(tmp_path / "first" / "recording.npy", recording)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READER, *(str(tmp_path / name) for name in ("first", "second", "result.pt"))],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    batch = processor(iq=recording, sampling_rate_hz=1e6)
    with torch.no_grad():
        features = model.iqfm(**batch).pooler_output
        torch.manual_seed(3)
        loss = model(**batch).loss
    for pooled, found, *heads in np.array_split(np.arange(8), 2):
        results = torch.load(tmp_path / "result.pt")
        torch.testing.assert_close(results[pooled], features)
        torch.testing.assert_close(results[found], loss)
        assert [results[head] for head in heads] == [None, None]
    package = Path(__file__).parents[1] / "modeling_mmwfm"
    for name in ("configuration_iqfm", "modeling_iqfm", "checks_mmwfm", "task_head_mmwfm"):
        assert (tmp_path / "second" / f"{name}.py").read_text() == (package / f"{name}.py").read_text()
