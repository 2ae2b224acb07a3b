"""Masked wireless modeling: what is kept, what the encoder sees, what counts in the loss."""

import math

import pytest
import torch

from modeling_mmwfm import MMWFMForPreTraining
from modeling_mmwfm.tokens_mmwfm import patchify, segment
from tests.small_models import alone_rows, images, iq, make, pad_iq

SAMPLES = [iq(1, 1, 80, 3)[0], iq(1, 3, 61, 4)[0], iq(1, 4, 5, 5)[0], iq(1, 2, 40, 6)[0]]


def noise(batch_size: int, tokens: int, seed: int = 7) -> torch.Tensor:
    return torch.rand(batch_size, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ratio, tokens, keep", [(0.7, 16, 4), (0.7, 10, 3), (0.7, 3, 1), (0.75, 16, 4), (0, 16, 16)])
def test_the_lowest_noise_is_kept_and_the_count_is_rounded_down_to_at_least_one(ratio, tokens, keep):
    model = make(MMWFMForPreTraining, mask_ratio_iq=ratio, mask_ratio_image=ratio)
    drawn = noise(2, tokens)
    expected = torch.ones(2, tokens)
    for row in range(2):
        for token in sorted(range(tokens), key=lambda token: drawn[row, token].item())[:keep]:
            expected[row, token] = 0
    output = model(iq_values=iq(2, 1, 8 * tokens), pixel_values=images(2, 1, 4, 4 * tokens), iq_noise=drawn)
    assert torch.equal(output.iq_mask, expected)
    assert output.image_mask.sum().item() == 2 * (tokens - keep)
    output = model(pixel_values=images(2, 1, 4, 4 * tokens), image_noise=drawn)
    assert torch.equal(output.image_mask, expected)


def test_each_padded_sample_keeps_its_own_share_and_never_padding():
    model, inputs = make(MMWFMForPreTraining), pad_iq(SAMPLES, extra=20)
    tokens = 4 * math.ceil(inputs["iq_values"].shape[-1] / 8)
    drawn = 0.5 + noise(4, tokens) / 2
    for row, sample in enumerate(SAMPLES):  # padding draws the lowest noise of all
        rows = alone_rows(sample, 4, 8)
        kept_noise = drawn[row, rows].clone()
        drawn[row] = 0.0
        drawn[row, rows] = kept_noise
    mask = model(**inputs, iq_noise=drawn).iq_mask
    for row, sample in enumerate(SAMPLES):
        rows = alone_rows(sample, 4, 8)
        keep = max(1, math.floor(len(rows) * 0.3))
        assert mask[row, rows].sum() == len(rows) - keep
        assert mask[row].sum() == mask[row, rows].sum()  # padding is neither masked ...
        visible = rows[mask[row, rows] == 0]
        assert set(visible.tolist()) == set(rows[drawn[row, rows].argsort()[:keep]].tolist())


ALL_TARGETS = {"waveform": 1.0, "log_spectrum": 0.5, "envelope": 2.0}


@pytest.mark.parametrize("iq_masking", ["random", "antenna"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"normalize_targets": True}, {"iq_targets": ALL_TARGETS, "iq_input": "waveform_log_spectrum"}],
    ids=["waveform", "normalised", "all targets"],
)
def test_a_padded_sample_is_reconstructed_as_it_is_alone(iq_masking, settings):
    model = make(MMWFMForPreTraining, iq_masking=iq_masking, **settings)
    inputs = pad_iq(SAMPLES, fill=float("nan"), extra=20)
    tokens = 4 * math.ceil(inputs["iq_values"].shape[-1] / 8)
    drawn = noise(4, tokens)
    batch = model(**inputs, iq_noise=drawn)
    assert batch.loss.isfinite()
    losses, masked = [], []
    for row, sample in enumerate(SAMPLES):
        rows = alone_rows(sample, 4, 8)
        alone = model(iq_values=sample[None], iq_noise=drawn[row : row + 1, rows])
        assert torch.equal(batch.iq_mask[row, rows], alone.iq_mask[0])
        torch.testing.assert_close(batch.iq_logits[row, rows], alone.iq_logits[0], atol=1e-5, rtol=1e-5)
        losses.append(alone.iq_loss)
        masked.append(alone.iq_mask.sum())
    assert sum(masked) > 10
    expected = sum(loss * count for loss, count in zip(losses, masked)) / sum(masked)
    torch.testing.assert_close(batch.iq_loss, expected, atol=1e-5, rtol=1e-5)


def test_padding_beside_images_changes_nothing():
    model, image = make(MMWFMForPreTraining), images(4, 1, 8, 16)
    image_noise, drawn = noise(4, 8), noise(4, 40)
    batch = model(**pad_iq(SAMPLES), pixel_values=image, iq_noise=drawn, image_noise=image_noise)
    for row, sample in enumerate(SAMPLES):
        rows = alone_rows(sample, 4, 8)
        one = slice(row, row + 1)
        alone = model(
            iq_values=sample[None],
            pixel_values=image[one],
            iq_noise=drawn[one, rows],
            image_noise=image_noise[one],
        )
        torch.testing.assert_close(batch.image_logits[one], alone.image_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.iq_logits[row, rows], alone.iq_logits[0], atol=1e-5, rtol=1e-5)


def test_whole_antennas_are_masked():
    model = make(MMWFMForPreTraining, iq_masking="antenna")
    mask = model(iq_values=iq(6, 5, 40)).iq_mask.reshape(6, 5, 5)  # batch, segments, antennas
    assert (mask == mask[:, :1]).all()
    assert (mask[:, 0].sum(1) == 4).all()  # floor(5 * 0.3) = 1 antenna is kept
    assert len({tuple(row.tolist()) for row in mask[:, 0]}) > 1


def test_whole_antenna_masking_counts_real_antennas_only():
    model, inputs = make(MMWFMForPreTraining, iq_masking="antenna", mask_ratio_iq=0.5), pad_iq(SAMPLES)
    mask = model(**inputs).iq_mask.reshape(4, -1, 4)
    for row, sample in enumerate(SAMPLES):
        antennas, segments = len(sample), math.ceil(sample.shape[-1] / 8)
        real = mask[row, :segments, :antennas]
        assert (real == real[:1]).all()
        assert real[0].sum() == antennas - max(1, antennas // 2)
        assert mask[row].sum() == real.sum()


def plain_loss(values, value_is_real, logits, mask, normalize):
    """Token by token, value by value."""
    losses = []
    for row in range(len(mask)):
        for token in torch.nonzero(mask[row]).flatten().tolist():
            real = value_is_real[row, token]
            target, predicted = values[row, token][real], logits[row, token][real]
            if normalize:
                deviation = target.std() if len(target) > 1 else torch.tensor(0.0)
                target = (target - target.mean()) / (deviation.square() + 1e-6).sqrt()
            losses.append((predicted - target).square().mean().item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_the_error_of_masked_real_values(normalize):
    model = make(MMWFMForPreTraining, normalize_targets=normalize)
    inputs, image = pad_iq(SAMPLES, extra=20), images(4, 1, 8, 8)
    output = model(**inputs, pixel_values=image)
    is_real = segment(inputs["iq_attention_mask"][:, :, None].float(), 8).bool().repeat(1, 1, 2)
    assert (is_real.any(-1) & ~is_real.all(-1)).any()  # some tokens are real in part
    values = segment(inputs["iq_values"], 8)
    expected = plain_loss(values, is_real, output.iq_logits, output.iq_mask, normalize)
    assert output.iq_loss.item() == pytest.approx(expected, rel=1e-5)
    patches = patchify(image, 4)
    everything = torch.ones_like(patches).bool()
    expected = plain_loss(patches, everything, output.image_logits, output.image_mask, normalize)
    assert output.image_loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(output.loss, output.iq_loss + output.image_loss)


def test_normalised_targets_forget_level_and_scale():
    x, drawn = iq(2, 2, 40), noise(2, 10)

    def loss_with_fixed_predictions(values, normalize):
        model = make(MMWFMForPreTraining, normalize_targets=normalize)
        with torch.no_grad():
            model.decoder.heads["iq"].weight.zero_()
        return model(iq_values=values, iq_noise=drawn).loss

    # the head answers its bias whatever the input: only the targets differ
    torch.testing.assert_close(
        loss_with_fixed_predictions(5 * x + 3, True), loss_with_fixed_predictions(x, True), rtol=1e-4, atol=1e-4
    )
    assert loss_with_fixed_predictions(5 * x + 3, False) > 2 * loss_with_fixed_predictions(x, False)


def test_only_visible_tokens_reach_projection_and_encoder():
    model, seen = make(MMWFMForPreTraining), {}
    for name in ("iq", "image"):
        part = model.mmwfm.embeddings_of(name).projection
        part.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
    layer = model.mmwfm.layers[0]
    layer.register_forward_pre_hook(lambda module, inputs: seen.update({"layer": inputs[0]}))
    decoder_layer = model.decoder.layers[0]
    decoder_layer.register_forward_pre_hook(lambda module, inputs: seen.update({"decoder": inputs[0]}))
    x, drawn = iq(2, 2, 80), noise(2, 20)
    output = model(iq_values=x, pixel_values=images(2, 1, 8, 20), iq_noise=drawn)
    assert seen["iq"].shape == (2, 6, 16) and seen["image"].shape == (2, 3, 16)
    assert seen["layer"].shape[1] == 1 + 6 + 3
    assert seen["decoder"].shape[1] == 1 + 20 + 10
    for row in range(2):
        torch.testing.assert_close(seen["iq"][row], segment(x, 8)[row][output.iq_mask[row] == 0])


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "odd length"])
def test_visible_tokens_enter_as_they_do_unmasked_where_they_are_real_in_part(padded):
    model, seen = make(MMWFMForPreTraining, iq_input="waveform_log_spectrum", mask_ratio_iq=0.3), []
    part = model.mmwfm.iq_embeddings
    part.projection.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    inputs = pad_iq(SAMPLES) if padded else {"iq_values": iq(4, 2, 77)}
    mask = model(**inputs).iq_mask.bool()
    model.mmwfm(**inputs)
    visible, unmasked = seen
    tokens = part.tokenize(inputs["iq_values"], inputs.get("iq_attention_mask"))
    is_real = torch.ones_like(mask) if tokens.is_real is None else tokens.is_real
    in_part = tokens.value_is_real.any(-1) & ~tokens.value_is_real.all(-1)
    assert (in_part & is_real & ~mask).any()
    for row in range(4):
        expected = unmasked[row][is_real[row] & ~mask[row]]
        assert len(expected) > 0
        torch.testing.assert_close(visible[row, : len(expected)], expected)


@pytest.mark.parametrize("iq_input", ["waveform", "waveform_log_spectrum"])
def test_hidden_values_do_not_leak_into_the_prediction(iq_input):
    model, x, drawn = make(MMWFMForPreTraining, iq_input=iq_input), iq(1, 2, 80), noise(1, 20)
    before = model(iq_values=x, iq_noise=drawn)
    hidden = segment(x, 8).clone()
    hidden[before.iq_mask.bool()] += 100.0
    changed = hidden.reshape(1, 10, 2, 2, 8).permute(0, 2, 3, 1, 4).flatten(3)
    assert not torch.equal(changed, x)
    after = model(iq_values=changed, iq_noise=drawn)
    assert torch.equal(after.iq_logits, before.iq_logits) and after.loss > before.loss + 1000


def test_masks_are_drawn_anew_and_repeat_under_a_seed():
    model, inputs = make(MMWFMForPreTraining), {"iq_values": iq(2, 2, 80), "pixel_values": images(2, 1, 16, 16)}
    torch.manual_seed(3)
    first, second = model(**inputs), model(**inputs)
    torch.manual_seed(3)
    again = model(**inputs)
    for name in ("iq_mask", "image_mask"):
        assert not torch.equal(first[name], second[name])
        assert torch.equal(first[name], again[name])
    assert torch.equal(first.loss, again.loss)


def test_a_fully_padded_sample_counts_nothing_and_breaks_nothing():
    model, x = make(MMWFMForPreTraining), iq(2, 2, 80)
    mask = torch.ones(2, 2, 80)
    mask[1] = 0
    drawn = noise(2, 20)
    output = model(iq_values=x, iq_attention_mask=mask, iq_noise=drawn)
    torch.testing.assert_close(output.loss, model(iq_values=x[:1], iq_noise=drawn[:1]).loss, atol=1e-5, rtol=1e-5)
    assert output.iq_mask[1].sum() == 0 and output.iq_logits.isfinite().all()


# Of four samples the first has IQ hidden, the second the image, the others neither.
VIEW_NOISE = torch.tensor([[0.1, 0.49], [0.1, 0.5], [0.6, 0.1], [0.6, 0.9]])


def cross_view(probability: float = 0.5, seed: int = 0, **settings):
    """(model, inputs of four samples, noise of their tokens)"""
    model = make(MMWFMForPreTraining, cross_view_masking=probability, seed=seed, **settings)
    inputs = {"iq_values": iq(4, 2, 80), "pixel_values": images(4, 1, 8, 20)}
    return model, inputs, {"iq_noise": noise(4, 20), "image_noise": noise(4, 10)}


def test_a_view_is_hidden_whole_in_the_samples_that_the_noise_chooses():
    model, inputs, drawn = cross_view()
    usual = cross_view(0.0)[0](**inputs, **drawn)
    output = model(**inputs, **drawn, view_noise=VIEW_NOISE)
    assert output.iq_mask.sum(1).tolist() == [20, 14, 14, 14]
    assert output.image_mask.sum(1).tolist() == [7, 10, 7, 7]
    for row in (2, 3):
        for name in ("iq_mask", "image_mask", "iq_logits", "image_logits"):
            torch.testing.assert_close(output[name][row], usual[name][row], atol=1e-5, rtol=1e-5)
    assert torch.equal(output.image_mask[0], usual.image_mask[0])  # the view that stays keeps its usual share
    assert torch.equal(output.iq_mask[1], usual.iq_mask[1])
    everything = torch.ones_like(segment(inputs["iq_values"], 8)).bool()
    expected = plain_loss(segment(inputs["iq_values"], 8), everything, output.iq_logits, output.iq_mask, False)
    assert output.iq_loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_hidden_view_is_reconstructed_from_the_other_alone():
    model, inputs, drawn = cross_view()
    drawn["view_noise"] = VIEW_NOISE
    before = model(**inputs, **drawn)
    other_iq, other_image = iq(4, 2, 80, seed=8), images(4, 1, 8, 20, seed=9)
    found = model(**{**inputs, "iq_values": other_iq}, **drawn)
    assert torch.equal(found.iq_logits[0], before.iq_logits[0])  # IQ was hidden: what it holds changes nothing
    assert torch.equal(found.image_logits[0], before.image_logits[0])
    assert (found.image_logits[1] - before.image_logits[1]).abs().max() > 1e-3  # but its image comes from IQ alone
    found = model(**{**inputs, "pixel_values": other_image}, **drawn)
    assert torch.equal(found.image_logits[1], before.image_logits[1])
    assert torch.equal(found.iq_logits[1], before.iq_logits[1])
    assert (found.iq_logits[0] - before.iq_logits[0]).abs().max() > 1e-3


def test_views_are_hidden_in_padded_samples_as_they_are_alone():
    model, image = make(MMWFMForPreTraining, cross_view_masking=1), images(4, 1, 8, 16)
    drawn, image_noise, view_noise = noise(4, 40), noise(4, 8), torch.tensor([[0.0, 0.2], [0.0, 0.7]] * 2)
    batch = model(
        **pad_iq(SAMPLES), pixel_values=image, iq_noise=drawn, image_noise=image_noise, view_noise=view_noise
    )
    for row, sample in enumerate(SAMPLES):
        rows, one = alone_rows(sample, 4, 8), slice(row, row + 1)
        alone = model(
            iq_values=sample[None],
            pixel_values=image[one],
            iq_noise=drawn[one, rows],
            image_noise=image_noise[one],
            view_noise=view_noise[one],
        )
        hidden = batch.iq_mask[row] if row % 2 == 0 else batch.image_mask[row]
        assert hidden.sum() == (len(rows) if row % 2 == 0 else 8)  # of IQ the real tokens alone
        torch.testing.assert_close(batch.image_logits[one], alone.image_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.iq_logits[row, rows], alone.iq_logits[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(batch.iq_mask[row, rows], alone.iq_mask[0])


def test_a_view_is_not_hidden_where_the_other_has_nothing_real():
    model, inputs, drawn = cross_view(1.0)
    mask = torch.ones(4, 2, 80)
    mask[:2] = 0
    view_noise = torch.tensor([[0.0, 0.2], [0.0, 0.7]] * 2)
    output = model(**inputs, iq_attention_mask=mask, **drawn, view_noise=view_noise)
    assert output.image_mask.sum(1).tolist() == [7, 7, 7, 10]
    assert output.iq_mask.sum(1).tolist() == [0, 0, 20, 14]
    assert output.loss.isfinite()


def test_views_are_drawn_at_the_configured_rate_evenly_and_repeat_under_a_seed():
    model = make(MMWFMForPreTraining, cross_view_masking=0.4)
    inputs = {"iq_values": iq(2000, 1, 16), "pixel_values": images(2000, 1, 4, 8)}
    torch.manual_seed(3)
    first, second = model(**inputs), model(**inputs)
    hidden = torch.stack([first.iq_mask.all(1), first.image_mask.all(1)])
    assert not hidden.all(0).any()
    assert ((hidden.float().mean(1) - 0.2).abs() < 0.04).all()  # more than four deviations of the mean of 2,000
    assert not torch.equal(first.iq_mask.all(1), second.iq_mask.all(1))
    torch.manual_seed(3)
    assert torch.equal(model(**inputs).iq_mask, first.iq_mask)


def test_views_are_hidden_only_where_there_are_two():
    model, inputs, drawn = cross_view(1.0)
    output = model(iq_values=inputs["iq_values"], iq_noise=drawn["iq_noise"])
    assert output.iq_mask.sum(1).tolist() == [14] * 4
    with pytest.raises(ValueError, match=r"expected IQ and image beside `view_noise`, found \['iq'\] alone"):
        model(iq_values=inputs["iq_values"], view_noise=VIEW_NOISE)
    with pytest.raises(ValueError, match=r"`view_noise`: expected \(batch, 2\) = \(4, 2\), found \(4,\)"):
        model(**inputs, view_noise=VIEW_NOISE[:, 0])
