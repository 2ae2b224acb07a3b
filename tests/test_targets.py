"""What IQ segments are reconstructed as, and the contrastive loss: what each keeps of a signal and what it removes."""

import math

import numpy as np
import pytest
import torch

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from modeling_mmwfm.objectives_mmwfm import (
    contrastive_loss,
    envelope,
    iq_target_sizes,
    iq_targets,
    log_spectrum,
    split_iq_logits,
)
from modeling_mmwfm.tokens_mmwfm import segment
from tests.small_models import SMALL, images, iq, make, pad_iq

ALL_TARGETS = {"waveform": 1.0, "log_spectrum": 0.5, "envelope": 2.0}
EVERYTHING = {
    "iq_targets": ALL_TARGETS,
    "iq_input": "waveform_log_spectrum",
    "cross_view_masking": 0.5,
    "contrastive_weight": 0.3,
}


def as_values(signal: np.ndarray) -> torch.Tensor:
    """complex (..., M) -> (..., 2M), M of I, then M of Q"""
    return torch.tensor(np.concatenate([signal.real, signal.imag], axis=-1), dtype=torch.float32)


def noise_signal(*shape: int, seed: int = 0) -> np.ndarray:
    """Complex noise of unit power."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


# --- the targets by themselves


@pytest.mark.parametrize("length", [1, 5, 16, 64, 100])
def test_the_log_spectrum_is_that_of_a_discrete_fourier_transform(length):
    signal = noise_signal(2, 3, length)
    expected = np.log10(np.abs(np.fft.fft(signal)) ** 2 / length + 1e-2) + 0.5
    found = log_spectrum(as_values(signal))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bin_number", [0, 3, -5])
def test_a_carrier_lies_in_the_bin_of_its_frequency_over_the_floor(bin_number):
    carrier = np.exp(2j * np.pi * bin_number * np.arange(32) / 32)
    spectrum = log_spectrum(as_values(carrier[None, None]))[0, 0]
    assert spectrum.argmax() == bin_number % 32
    assert spectrum.max().item() == pytest.approx(math.log10(32) + 0.5, abs=1e-3)
    others = spectrum[torch.arange(32) != bin_number % 32]
    torch.testing.assert_close(others, torch.full((31,), -1.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [8, 20, 4])
def test_the_envelope_is_the_mean_power_of_eight_samples(length):
    signal = noise_signal(2, 3, length)
    groups = [np.mean(np.abs(signal[..., i : i + 8]) ** 2, axis=-1) for i in range(0, length, 8)]
    found, is_real = envelope(as_values(signal))
    np.testing.assert_allclose(found, np.stack(groups, axis=-1), rtol=1e-5)
    assert is_real is None and found.shape[-1] == math.ceil(length / 8)


TIME = np.arange(128)
CHANGES = {
    "phase": lambda signal: signal * np.exp(1.3j),
    "carrier": lambda signal: signal * np.exp(2j * np.pi * 3 / 32 * TIME + 0.7j),  # by three bins of 32 samples
    "delay": lambda signal: np.roll(signal.reshape(-1, 32), 5, axis=-1).ravel(),  # within every segment
    "gain": lambda signal: 2 * signal,
}


def targets_of(signal: np.ndarray, segment_length: int = 32) -> dict[str, torch.Tensor]:
    """Of one antenna, as the model computes them."""
    model = make(MMWFMForPreTraining, iq_targets=ALL_TARGETS, segment_length=segment_length)
    values = torch.tensor(np.stack([signal.real, signal.imag]), dtype=torch.float32)[None, None]
    return {name: values for name, (values, _) in iq_targets(model.mmwfm.tokenize(values)["iq"], model.config).items()}


@pytest.mark.parametrize(
    "change, kept",
    [
        ("phase", {"log_spectrum", "envelope"}),
        ("carrier", {"envelope"}),
        ("delay", {"log_spectrum"}),
        ("gain", set()),
    ],
)
def test_what_a_target_keeps_and_what_it_removes(change, kept):
    signal = noise_signal(128)
    before, after = targets_of(signal), targets_of(CHANGES[change](signal))
    assert list(before) == ["waveform", "log_spectrum", "envelope"]
    for name, values in before.items():
        if name in kept:
            torch.testing.assert_close(after[name], values, atol=1e-5, rtol=1e-5)
        else:
            assert (after[name] - values).abs().mean() > 0.1, name
    if change == "carrier":
        moved = before["log_spectrum"].roll(3, dims=-1)
        torch.testing.assert_close(after["log_spectrum"], moved, atol=1e-4, rtol=1e-4)


def test_targets_of_a_segment_that_is_real_in_part_come_from_its_real_samples():
    signal = noise_signal(1, 1, 20)
    values, is_real = as_values(signal), torch.zeros(1, 1, 40, dtype=torch.bool)
    is_real[..., :11] = is_real[..., 20:31] = True
    values = values.masked_fill(~is_real, 0)
    spectrum = log_spectrum(values, is_real)[0, 0].numpy()
    expected = np.log10(np.abs(np.fft.fft(signal[0, 0, :11], 20)) ** 2 / 11 + 1e-2) + 0.5
    np.testing.assert_allclose(spectrum, expected, atol=1e-5)
    # padding does not lower the level: the mean over the bins is the mean power of the real samples
    power = np.mean(np.abs(signal[0, 0, :11]) ** 2)
    assert np.mean(10 ** (spectrum - 0.5) - 1e-2) == pytest.approx(power, rel=1e-4)
    found, counts = envelope(values, is_real)
    assert counts[0, 0].tolist() == [True, True, False]
    np.testing.assert_allclose(
        found[0, 0, :2], [np.mean(np.abs(signal[0, 0, part]) ** 2) for part in (slice(8), slice(8, 11))], rtol=1e-5
    )


def test_the_log_spectrum_stays_exact_under_autocast_and_in_half_precision():
    values = as_values(noise_signal(2, 3, 64))
    expected = log_spectrum(values)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_spectrum(values)
        assert (values @ values.mT).dtype == torch.bfloat16  # other products are rounded here
    assert torch.equal(found, expected)
    half = log_spectrum(values.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, log_spectrum(values.bfloat16().float()))


# --- the targets in the model


def test_the_default_model_has_the_parts_it_always_had():
    state = make(MMWFMForPreTraining).state_dict()
    assert state["decoder.heads.iq.weight"].shape == (16, 16) and state["decoder.heads.iq.bias"].shape == (16,)
    assert state["mmwfm.iq_embeddings.projection.weight"].shape == (32, 16)
    tops = {".".join(key.split(".")[:2]) for key in state}
    assert tops == {
        *("mmwfm.cls_token", "mmwfm.iq_embeddings", "mmwfm.image_embeddings", "mmwfm.layers", "mmwfm.norm"),
        *("decoder.mask_token", "decoder.projection", "decoder.positions", "decoder.heads", "decoder.layers"),
        "decoder.norm",
    }


@pytest.mark.parametrize(
    "weights, sizes",
    [
        ({"waveform": 1.0}, {"waveform": 40}),
        ({"log_spectrum": 1}, {"log_spectrum": 20}),
        ({"envelope": 1.0, "waveform": 1.0}, {"waveform": 40, "envelope": 3}),
        ({"envelope": 1.0, "log_spectrum": 3, "waveform": 1.0}, {"waveform": 40, "log_spectrum": 20, "envelope": 3}),
    ],
)
def test_the_head_gives_the_targets_side_by_side_in_a_fixed_order(weights, sizes):
    model = make(MMWFMForPreTraining, iq_targets=weights, segment_length=20)
    assert list(iq_target_sizes(model.config).items()) == list(sizes.items())
    assert model.decoder.heads["iq"].weight.shape == (sum(sizes.values()), 16)
    output = model(iq_values=iq(2, 2, 80))
    assert output.iq_logits.shape == (2, 8, sum(sizes.values()))
    parts = split_iq_logits(output.iq_logits, model.config)
    assert torch.equal(torch.cat(list(parts.values()), dim=-1), output.iq_logits)
    assert {name: part.shape[-1] for name, part in parts.items()} == sizes


def test_the_order_in_which_targets_are_written_means_nothing(tmp_path):
    model = make(MMWFMForPreTraining, iq_targets=ALL_TARGETS)
    model.save_pretrained(tmp_path)
    again = MMWFMForPreTraining.from_pretrained(tmp_path)
    assert list(again.config.iq_targets) != list(model.config.iq_targets)  # a saved configuration is sorted
    inputs = {"iq_values": iq(2, 2, 80), "iq_noise": torch.rand(2, 20)}
    assert torch.equal(again(**inputs).loss, model(**inputs).loss)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_iq_loss_is_the_weighted_sum_of_the_targets_errors(normalize):
    """Token by token from the complex samples, in NumPy."""
    samples = [iq(1, 1, 90, 3)[0], iq(1, 3, 71, 4)[0], iq(1, 2, 40, 6)[0]]
    model = make(MMWFMForPreTraining, iq_targets=ALL_TARGETS, segment_length=20, normalize_targets=normalize)
    inputs = pad_iq(samples, extra=13)
    output = model(**inputs)
    is_real = segment(inputs["iq_attention_mask"][:, :, None].float(), 20).bool()
    assert (is_real.any(-1) & ~is_real.all(-1)).any()
    tokens = segment(inputs["iq_values"], 20)
    predicted = {name: part.numpy() for name, part in split_iq_logits(output.iq_logits.detach(), model.config).items()}
    errors = {name: [] for name in ALL_TARGETS}
    for row, token in torch.nonzero(output.iq_mask).tolist():
        signal = tokens[row, token, :20].numpy() + 1j * tokens[row, token, 20:].numpy()
        count = int(is_real[row, token].sum())
        real = signal[:count]
        power = np.abs(real) ** 2
        expected = {
            "waveform": np.concatenate([real.real, real.imag]),
            "log_spectrum": np.log10(np.abs(np.fft.fft(real, 20)) ** 2 / count + 1e-2) + 0.5,
            "envelope": np.array([power[i : i + 8].mean() for i in range(0, count, 8)]),
        }
        for name, target in expected.items():
            found = predicted[name][row, token]
            found = np.concatenate([found[:count], found[20 : 20 + count]]) if name == "waveform" else found
            if normalize:
                deviation = target.std(ddof=1) if len(target) > 1 else 0.0
                target = (target - target.mean()) / np.sqrt(deviation**2 + 1e-6)
            errors[name].append(np.mean((found[: len(target)] - target) ** 2))
    expected = sum(weight * np.mean(errors[name]) for name, weight in ALL_TARGETS.items())
    assert output.iq_loss.item() == pytest.approx(expected, rel=1e-4)


# --- the contrastive loss


def plain_info_nce(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """Pair by pair, in both directions."""
    first, second = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second))
    losses = []
    for anchors, others in ((first, second), (second, first)):
        for number, anchor in enumerate(anchors):
            scores = np.exp(others @ anchor / temperature)
            losses.append(-np.log(scores[number] / scores.sum()))
    return np.mean(losses)


def test_info_nce_is_that_of_both_directions_pair_by_pair():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 8, generator=generator) for _ in range(2))
    found = contrastive_loss(first, second, 0.2)
    assert found.item() == pytest.approx(plain_info_nce(first.numpy(), second.numpy(), 0.2), rel=1e-5)
    one_way = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=-1) / 0.2
    one_way = torch.nn.functional.cross_entropy(one_way, torch.arange(6))
    assert abs(found - one_way) > 1e-2
    torch.testing.assert_close(contrastive_loss(3 * first, second, 0.2), found)  # lengths mean nothing


def test_info_nce_is_log_batch_size_where_nothing_is_told_and_0_where_all_is():
    same = torch.ones(16, 8)
    assert contrastive_loss(same, same, 0.1).item() == pytest.approx(math.log(16), rel=1e-5)
    first, second = (torch.randn(16, 20000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert contrastive_loss(first, second, 1.0).item() == pytest.approx(math.log(16), abs=0.02)
    assert contrastive_loss(torch.eye(16), torch.eye(16), 0.05).item() < 1e-6
    assert contrastive_loss(torch.eye(16), torch.eye(16).roll(1, 0), 0.05).item() > 15
    assert contrastive_loss(first[:1], second[:1], 0.1).item() == 0


def test_pairs_without_a_real_token_are_no_anchors_and_no_negatives():
    first, second = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    is_real = torch.tensor([True, False, True, True, False, True])
    expected = contrastive_loss(first[is_real], second[is_real], 0.2)
    torch.testing.assert_close(contrastive_loss(first, second, 0.2, is_real), expected)
    first.requires_grad_()
    nothing = contrastive_loss(first, second, 0.2, torch.zeros(6, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0 and first.grad.isfinite().all()


def embedded(model, **inputs) -> torch.Tensor:
    """Projected mean of all tokens."""
    return model.contrastive_head(model.mmwfm(**inputs).last_hidden_state[:, 1:].mean(1))


UNMASKED = {"mask_ratio_iq": 0, "mask_ratio_image": 0, "contrastive_weight": 0.3}


@pytest.mark.parametrize("family", ["iq", "image", "both"])
def test_the_loss_gains_the_weighted_contrast_of_two_views_of_any_family(family):
    model = make(MMWFMForPreTraining, **UNMASKED, contrastive_temperature=0.5, contrastive_size=12)
    first = {"iq_values": iq(4, 2, 80)}
    second = {"iq_values": iq(4, 1, 40, seed=5), "pixel_values": images(4, 1, 8, 8)}
    second = {name: part for name, part in second.items() if family in name or family == "both"} or {
        "pixel_values": second["pixel_values"]
    }
    output = model(**first, **{f"positive_{name}": part for name, part in second.items()})
    views = [embedded(model, **part) for part in (first, second)]
    assert views[0].shape == (4, 12)
    expected = contrastive_loss(*views, 0.5)
    torch.testing.assert_close(output.contrastive_loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, output.iq_loss + 0.3 * output.contrastive_loss)
    alone = model(**first)
    assert alone.contrastive_loss is None
    torch.testing.assert_close(alone.loss, output.iq_loss)


def test_padding_and_empty_samples_change_no_contrast():
    model = make(MMWFMForPreTraining, **UNMASKED)
    samples, image = [iq(1, 1, 80, 3)[0], iq(1, 3, 61, 4)[0], iq(1, 2, 40, 6)[0]], images(3, 1, 8, 8)
    padded = pad_iq(samples, fill=float("nan"), extra=20)
    views = [
        torch.cat([embedded(model, iq_values=sample[None]) for sample in samples]),
        embedded(model, pixel_values=image),
    ]
    expected = contrastive_loss(*views, 0.1)
    torch.testing.assert_close(
        model(**padded, positive_pixel_values=image).contrastive_loss, expected, atol=1e-4, rtol=1e-4
    )
    padded["iq_attention_mask"][1] = 0
    some = torch.tensor([0, 2])
    expected = contrastive_loss(views[0][some], views[1][some], 0.1)
    positive = {f"positive_{name}": part for name, part in padded.items()}
    found = model(pixel_values=image, **positive).contrastive_loss
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_both_views_are_encoded_masked():
    model, seen = make(MMWFMForPreTraining, contrastive_weight=1.0), []
    model.mmwfm.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    model(iq_values=iq(2, 2, 80), positive_pixel_values=images(2, 1, 8, 20))
    assert seen == [1 + 6, 1 + 3]


def test_the_contrast_teaches_the_encoder_through_both_views():
    model = make(MMWFMForPreTraining, contrastive_weight=0.3)
    output = model(iq_values=iq(4, 2, 80), positive_pixel_values=images(4, 1, 8, 8))
    output.contrastive_loss.backward()
    parts = (model.mmwfm.iq_embeddings.projection, model.mmwfm.image_embeddings.projection, model.contrastive_head[2])
    assert all(part.weight.grad.abs().max() > 1e-6 for part in parts)
    assert model.decoder.heads["iq"].weight.grad is None


def test_contrastive_training_tells_recordings_apart():
    torch.manual_seed(0)
    model = MMWFMForPreTraining(MMWFMConfig(**SMALL, contrastive_weight=1.0, mask_ratio_iq=0.2)).train()
    x = iq(8, 1, 64)
    turned = torch.stack([-x[:, :, 1], x[:, :, 0]], dim=2)  # the same recordings, a quarter turn in phase
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = model(iq_values=x, positive_iq_values=turned).contrastive_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[:5]) > 1.5 and np.mean(losses[-5:]) < 0.5


def test_without_a_weight_there_is_no_head_and_no_second_view():
    model = make(MMWFMForPreTraining)
    assert model.contrastive_head is None
    for name, part in (
        ("positive_iq_values", iq(2, 2, 80)),
        ("positive_pixel_values", images(2, 1, 8, 8)),
        ("positive_iq_attention_mask", torch.ones(2, 2, 80)),
    ):
        with pytest.raises(ValueError, match="expected no second view .* with `contrastive_weight` 0"):
            model(iq_values=iq(2, 2, 80), **{name: part})


@pytest.mark.parametrize(
    "positive, match",
    [
        (
            {"positive_iq_values": iq(3, 2, 80)},
            r"expected as many second views \(`positive_...`\) as first, found 3 of 2",
        ),
        ({"positive_iq_values": iq(2, 2, 80)[0]}, r"second view \(`positive_...`\): `iq_values`: expected a floating"),
        ({"positive_iq_attention_mask": torch.ones(2, 2, 80)}, "second view.*expected `iq_values`"),
    ],
    ids=["batch size", "rank", "mask alone"],
)
def test_a_second_view_that_does_not_fit_is_refused(positive, match):
    with pytest.raises(ValueError, match=match):
        make(MMWFMForPreTraining, contrastive_weight=1.0)(iq_values=iq(2, 2, 80), **positive)


# --- all together


def everything_inputs() -> dict[str, torch.Tensor]:
    return {
        **{"iq_values": iq(4, 2, 80), "pixel_values": images(4, 1, 8, 20)},
        **{"iq_noise": torch.rand(4, 20), "image_noise": torch.rand(4, 10)},
        "view_noise": torch.tensor([[0.1, 0.2], [0.1, 0.7], [0.9, 0.2], [0.9, 0.7]]),
        "positive_iq_values": iq(4, 1, 16, seed=7),
    }


def test_every_parameter_learns_from_everything_together():
    model = make(MMWFMForPreTraining, **EVERYTHING).train()
    model(**everything_inputs()).loss.backward()
    idle = [name for name, part in model.named_parameters() if part.grad is None or not part.grad.abs().max() > 0]
    assert all(name.endswith("k_proj.bias") for name in idle), idle  # softmax ignores them


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_everything_together_runs_in_half_precision(how):
    inputs, settings = everything_inputs(), {**EVERYTHING, "mask_ratio_iq": 0.1}
    model = make(MMWFMForPreTraining, **settings)
    torch.manual_seed(1)
    expected = model(**inputs)
    model = model.bfloat16() if how == "bfloat16" else model
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = model(**inputs)
    for name in ("loss", "iq_loss", "contrastive_loss"):
        assert output[name].dtype == torch.float32
        torch.testing.assert_close(output[name], expected[name], atol=0.1, rtol=0.1)
    output.loss.backward()
    assert all(part.grad.isfinite().all() for part in model.parameters() if part.grad is not None)


def test_everything_together_compiles_into_a_single_graph():
    inputs, model = everything_inputs(), make(MMWFMForPreTraining, num_hidden_layers=1, **EVERYTHING)
    torch.manual_seed(1)
    expected = model(**inputs)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    with torch.no_grad():
        found = compiled(**inputs)
    assert {"contrastive_loss", "iq_loss", "image_loss"} <= set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


def test_an_exported_encoder_with_the_log_spectrum_takes_other_batches_and_lengths():
    model = make(MMWFMModel, iq_input="waveform_log_spectrum", pooling="mean_std", num_hidden_layers=1)

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, iq_values):
            return self.model(iq_values=iq_values).pooler_output

    free = {0: torch.export.Dim("batch"), 3: 8 * torch.export.Dim("segments")}
    exported = torch.export.export(Pooled(), (iq(2, 3, 80),), dynamic_shapes={"iq_values": free}).module()
    for x in (iq(2, 3, 80), iq(5, 3, 160)):
        torch.testing.assert_close(exported(x), model(iq_values=x).pooler_output)


@pytest.mark.parametrize("model_class", [MMWFMModel, MMWFMForSequenceClassification])
def test_the_encoder_of_everything_loads_without_decoder_and_contrastive_head(model_class, tmp_path):
    model = make(MMWFMForPreTraining, **EVERYTHING)
    model.save_pretrained(tmp_path)
    again, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    for key, value in getattr(again, "mmwfm", again).state_dict().items():
        assert torch.equal(value, model.mmwfm.state_dict()[key]), key
