"""The encoder and its head: sizes, token order, padding, pooling, affine, regression, refusals."""

import numpy as np
import pytest
import torch

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from modeling_mmwfm.tokens_mmwfm import patchify, segment, sincos_grid, sincos_positions, unpatchify, unsegment
from tests.small_models import SMALL, alone_rows, images, iq, make, pad_iq


def count(modules) -> int:
    return sum(parameter.numel() for parameter in modules.parameters())


def test_the_papers_model_has_the_papers_parameter_counts():
    with torch.device("meta"):
        model = MMWFMForPreTraining(MMWFMConfig())
    assert count(model.mmwfm.layers) == 6_318_080
    assert count(model.decoder.layers) == 793_088
    assert 7.2e6 < count(model) < 7.3e6
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not list(model.buffers())  # position tables are computed, never trained or loaded


def test_patchify_keeps_row_column_channel_order_and_comes_back():
    pixels = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patchify(pixels, 2)
    assert patches.shape == (2, 6, 12)
    # patch 1 is the first row of patches, second column: pixels (0..1, 2..3), channels innermost
    by_hand = [pixels[0, c, r, k] for r in (0, 1) for k in (2, 3) for c in range(3)]
    assert patches[0, 1].tolist() == [value.item() for value in by_hand]
    assert patches[1, 3, 0] == pixels[1, 0, 2, 0]  # patch 3 opens the second row of patches
    assert torch.equal(unpatchify(patches, 2, 4, 6), pixels)


def test_segment_orders_by_time_then_antenna_and_comes_back():
    values = torch.arange(2 * 3 * 2 * 10.0).reshape(2, 3, 2, 10)
    segments = segment(values, 4)
    assert segments.shape == (2, 9, 8)
    for token, (step, antenna) in enumerate((s, a) for s in range(3) for a in range(3)):
        for channel in (0, 1):
            expected = values[1, antenna, channel, 4 * step : 4 * step + 4].tolist()
            expected += [0.0] * (4 - len(expected))
            assert segments[1, token, 4 * channel : 4 * channel + 4].tolist() == expected
    assert torch.equal(unsegment(segments, 3, 10), values)


def plain_sincos(position: int, width: int) -> list[float]:
    angles = [position * 10000.0 ** (-2 * i / width) for i in range(width // 2)]
    return [np.sin(angle) for angle in angles] + [np.cos(angle) for angle in angles]


def test_position_tables_equal_a_plain_loop():
    table = np.array([plain_sincos(position, 12) for position in range(300)])
    np.testing.assert_allclose(sincos_positions(torch.arange(300), 12).numpy(), table, atol=1e-7)
    # 2-D: the column index fills the first half, the row index the second
    grid = np.array([plain_sincos(column, 8) + plain_sincos(row, 8) for row in range(3) for column in range(5)])
    np.testing.assert_allclose(sincos_grid(3, 5, 16).numpy(), grid, atol=1e-7)


def test_a_token_is_projection_affine_time_and_antenna_in_the_documented_order():
    model, values = make(MMWFMModel), iq(1, 3, 40)
    part = model.iq_embeddings
    embedded = part(part.tokenize(values))[0]
    for step, antenna in ((0, 0), (4, 2), (2, 1)):
        segment_values = values[0, antenna, :, 8 * step : 8 * step + 8].flatten()
        projected = part.projection.weight @ segment_values + part.projection.bias
        expected = projected * part.affine.weight + part.affine.bias
        expected = expected + torch.tensor(plain_sincos(step, 32), dtype=torch.float32)
        expected = expected + part.positions.antenna_embeddings.weight[antenna]
        torch.testing.assert_close(embedded[3 * step + antenna], expected)


@pytest.mark.parametrize(
    "inputs, tokens",
    [
        ({"iq_values": iq(2, 3, 40)}, 15),
        ({"iq_values": iq(2, 1, 3)}, 1),
        ({"iq_values": iq(2, 2, 41)}, 12),
        ({"pixel_values": images(2, 1, 8, 20)}, 10),
        ({"iq_values": iq(2, 3, 40), "pixel_values": images(2, 1, 12, 4)}, 18),
    ],
    ids=["iq", "shorter than a segment", "odd length", "image", "joint"],
)
def test_outputs_have_the_documented_shapes(inputs, tokens):
    output = make(MMWFMModel)(**inputs)
    assert output.last_hidden_state.shape == (2, 1 + tokens, 32)
    assert output.pooler_output.shape == (2, 32)
    logits = make(MMWFMForSequenceClassification, num_labels=7)(**inputs, labels=torch.tensor([0, 6]))
    assert logits.logits.shape == (2, 7) and logits.loss.shape == ()
    pretraining = make(MMWFMForPreTraining)(**inputs)
    assert pretraining.loss.shape == ()
    lengths = {"iq": (pretraining.iq_logits, 16), "image": (pretraining.image_logits, 16)}
    given = {"iq" if "iq" in name else "image" for name in inputs}
    assert {family for family, (logits, _) in lengths.items() if logits is not None} == given
    assert sum(lengths[family][0].shape[1] for family in given) == tokens
    assert all(lengths[family][0].shape[::2] == (2, lengths[family][1]) for family in given)


def test_joint_tokens_are_cls_iq_image_and_each_family_influences_the_other():
    model, x, y = make(MMWFMModel), iq(2, 2, 16), images(2, 1, 8, 8)
    joint = model(iq_values=x, pixel_values=y).last_hidden_state
    only_iq, only_image = model(iq_values=x).last_hidden_state, model(pixel_values=y).last_hidden_state
    assert joint.shape[1] == only_iq.shape[1] + only_image.shape[1] - 1
    assert (joint[:, :5] - only_iq).abs().max() > 1e-3 and (joint[:, 5:] - only_image[:, 1:]).abs().max() > 1e-3
    encoder_input = []
    model.layers[0].register_forward_pre_hook(lambda module, inputs: encoder_input.append(inputs[0]))
    model(iq_values=x, pixel_values=y)
    torch.testing.assert_close(encoder_input[0][:, 1:5], model.iq_embeddings(model.iq_embeddings.tokenize(x)))
    torch.testing.assert_close(encoder_input[0][:, 5:], model.image_embeddings(model.image_embeddings.tokenize(y)))


SAMPLES = [iq(1, 1, 24, 3)[0], iq(1, 3, 61, 4)[0], iq(1, 4, 5, 5)[0], iq(1, 2, 40, 6)[0]]


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("iq_input", ["waveform", "waveform_log_spectrum"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_std"])
def test_a_sample_padded_in_a_batch_gives_what_it_gives_alone(pooling, iq_input, attn_implementation):
    model = make(MMWFMModel, pooling=pooling, iq_input=iq_input, attn_implementation=attn_implementation)
    batch = model(**pad_iq(SAMPLES, extra=9))
    for row, sample in enumerate(SAMPLES):
        alone = model(iq_values=sample[None])
        torch.testing.assert_close(batch.pooler_output[row], alone.pooler_output[0], atol=1e-5, rtol=1e-5)
        tokens = batch.last_hidden_state[row, 1:][alone_rows(sample, 4, 8)]
        torch.testing.assert_close(tokens, alone.last_hidden_state[0, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_what_lies_in_padded_samples_has_no_influence(garbage):
    model = make(MMWFMModel, pooling="mean")
    clean, dirty = pad_iq(SAMPLES, extra=9), pad_iq(SAMPLES, fill=garbage, extra=9)
    image = images(4, 1, 8, 8)
    assert not torch.equal(clean["iq_values"], dirty["iq_values"])
    expected, found = (model(**inputs, pixel_values=image).pooler_output for inputs in (clean, dirty))
    assert torch.equal(found, expected) and found.isfinite().all()


def test_mean_pooling_is_the_mean_of_real_tokens_without_cls():
    model = make(MMWFMModel, pooling="mean")
    batch = model(**pad_iq(SAMPLES), pixel_values=images(4, 1, 8, 8))
    for row, sample in enumerate(SAMPLES):
        tokens = batch.last_hidden_state[row, 1:]
        iq_rows = alone_rows(sample, 4, 8)
        real = torch.cat([iq_rows, torch.arange(len(tokens) - 4, len(tokens))])
        assert len(real) < len(tokens)
        torch.testing.assert_close(batch.pooler_output[row], tokens[real].mean(0), atol=1e-5, rtol=1e-5)
    unpadded = model(iq_values=iq(2, 2, 16))
    torch.testing.assert_close(unpadded.pooler_output, unpadded.last_hidden_state[:, 1:].mean(1))


def test_mean_std_pooling_adds_the_deviation_of_real_tokens_and_widens_the_head():
    model = make(MMWFMModel, pooling="mean_std")
    batch = model(**pad_iq(SAMPLES), pixel_values=images(4, 1, 8, 8))
    assert batch.pooler_output.shape == (4, 64)
    for row, sample in enumerate(SAMPLES):
        tokens = batch.last_hidden_state[row, 1:]
        real = tokens[torch.cat([alone_rows(sample, 4, 8), torch.arange(len(tokens) - 4, len(tokens))])]
        expected = torch.cat([real.mean(0), real.std(0, correction=0)])
        torch.testing.assert_close(batch.pooler_output[row], expected, atol=1e-5, rtol=1e-5)
    assert batch.pooler_output[:, 32:].min() > 1e-3
    assert make(MMWFMForSequenceClassification, pooling="mean_std", num_labels=3).classifier.weight.shape == (3, 64)
    assert model.bfloat16()(pixel_values=images(4, 1, 8, 8)).pooler_output.dtype == torch.bfloat16


def test_the_deviation_of_a_single_token_is_zero_and_can_be_trained_through():
    model, values = make(MMWFMModel, pooling="mean_std"), iq(2, 1, 8).requires_grad_()
    pooled = model(iq_values=values).pooler_output
    assert pooled[:, 32:].abs().max() < 1e-5
    pooled.sum().backward()
    assert values.grad.isfinite().all() and values.grad.abs().max() > 0


@pytest.mark.parametrize("samples, real", [(40, 40), (37, 37), (48, 37)], ids=["whole", "odd length", "padded"])
def test_the_log_spectrum_of_a_segment_enters_beside_its_samples(samples, real):
    model, values, seen = make(MMWFMModel, iq_input="waveform_log_spectrum"), iq(1, 3, samples), []
    mask = torch.zeros(1, 3, samples)
    mask[..., :real] = 1
    part = model.iq_embeddings
    assert part.projection.weight.shape == (32, 24)
    part.projection.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0]))
    model(iq_values=values, iq_attention_mask=mask)
    for step, antenna in ((0, 0), (4, 2), (2, 1)):
        token = np.zeros(8, np.complex128)
        length = min(8, real - 8 * step)
        token[:length].real, token[:length].imag = values[0, antenna, :, 8 * step : 8 * step + length].numpy()
        spectrum = np.log10(np.abs(np.fft.fft(token)) ** 2 / length + 1e-2) + 0.5
        expected = np.concatenate([token.real, token.imag, spectrum])
        np.testing.assert_allclose(seen[0][3 * step + antenna], expected, atol=1e-5)


@pytest.mark.parametrize("affine_position", ["projection", "tokens", "none"])
def test_the_affine_acts_where_the_configuration_says(affine_position):
    model, x, y = make(MMWFMModel, affine_position=affine_position), iq(2, 2, 16), images(2, 1, 8, 8)
    seen = []
    model.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(iq_values=x)
    model(iq_values=x, pixel_values=y)
    part = model.iq_embeddings
    projected = part.projection(segment(x, 8))
    positions = part.positions((2, 2), like=projected)
    cls = model.cls_token.expand(2, -1, -1)
    if affine_position == "projection":
        expected = torch.cat([cls, projected * part.affine.weight + part.affine.bias + positions], dim=1)
    elif affine_position == "tokens":
        expected = torch.cat([cls, projected + positions], dim=1) * part.affine.weight + part.affine.bias
    else:
        assert not any("affine" in name for name, _ in model.named_parameters())
        expected = torch.cat([cls, projected + positions], dim=1)
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(seen[1][:, 1:5], expected[:, 1:])  # with an image beside, IQ keeps its own affine
    if affine_position == "tokens":
        other = model.image_embeddings.affine
        torch.testing.assert_close(seen[1][:, :1], (part.affine(cls) + other(cls)) / 2)
    else:
        torch.testing.assert_close(seen[1][:, :1], cls)


def test_the_channel_adapter_starts_as_the_average_and_is_absent_without_need():
    model = MMWFMModel(MMWFMConfig(**SMALL, input_channels=4)).eval()
    y = images(2, 4, 8, 8)
    adapter = model.image_embeddings.channel_adapter
    assert adapter.weight.shape == (1, 4, 1, 1) and adapter.bias is None
    torch.testing.assert_close(adapter(y), y.mean(1, keepdim=True))
    plain = MMWFMModel(MMWFMConfig(**SMALL)).eval()
    assert plain.image_embeddings.channel_adapter is None
    state = {key: value for key, value in model.state_dict().items() if "channel_adapter" not in key}
    plain.load_state_dict(state, strict=True)
    torch.testing.assert_close(
        model(pixel_values=y).pooler_output, plain(pixel_values=y.mean(1, keepdim=True)).pooler_output
    )


def test_regression_gives_metres_and_takes_its_loss_on_scaled_coordinates():
    limits = {"label_min": [0.0, -10.0, 2.0], "label_max": [80.0, 10.0, 3.0]}
    model = make(MMWFMForSequenceClassification, problem_type="regression", num_labels=3, **limits)
    x, labels = iq(2, 2, 16), torch.tensor([[8.0, 5.0, 2.5], [72.0, -9.0, 2.75]])
    output = model(iq_values=x, labels=labels)
    scaled = model.classifier(model.mmwfm(iq_values=x).pooler_output)
    centre, half = torch.tensor([40.0, 0.0, 2.5]), torch.tensor([40.0, 10.0, 0.5])
    torch.testing.assert_close(output.logits, scaled * half + centre)
    torch.testing.assert_close(output.loss, (scaled - (labels - centre) / half).square().mean())
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, -1.0, 0.0]))
    torch.testing.assert_close(model(iq_values=x).logits, torch.tensor([[80.0, -10.0, 2.5]] * 2))
    plain = make(MMWFMForSequenceClassification, problem_type="regression", num_labels=3)
    output = plain(iq_values=x, labels=labels)
    torch.testing.assert_close(output.loss, (output.logits - labels).square().mean())


def test_classification_loss_is_the_cross_entropy_of_the_logits():
    output = make(MMWFMForSequenceClassification, num_labels=4)(iq_values=iq(3, 1, 16), labels=torch.tensor([3, 0, 1]))
    log_p = output.logits - output.logits.exp().sum(1, keepdim=True).log()
    torch.testing.assert_close(output.loss, -(log_p[0, 3] + log_p[1, 0] + log_p[2, 1]) / 3)


def test_a_new_classifier_is_drawn_small_and_its_bias_zero():
    torch.manual_seed(0)
    model = MMWFMForSequenceClassification(MMWFMConfig(**SMALL, num_labels=200))
    assert 0.018 < model.classifier.weight.std() < 0.022
    assert torch.equal(model.classifier.bias, torch.zeros(200))
    assert torch.equal(model.mmwfm.iq_embeddings.affine.weight, torch.ones(32))
