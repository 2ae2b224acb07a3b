"""Every input the models cannot take is refused with what was expected and what was found."""

import pytest
import torch

from modeling_mmwfm import MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from tests.small_models import images, iq, make


@pytest.mark.parametrize(
    "inputs, match",
    [
        ({}, "expected `iq_values`, `pixel_values` or both, found neither"),
        ({"iq_values": torch.zeros(2, 16)}, r"`iq_values`: expected .*\(batch, antennas, 2, samples\).*\(2, 16\)"),
        ({"iq_values": torch.zeros(2, 1, 3, 16)}, r"`iq_values`.*found \(2, 1, 3, 16\)"),
        ({"iq_values": torch.zeros(2, 1, 2, 0)}, r"none of them 0, found \(2, 1, 2, 0\)"),
        ({"iq_values": torch.zeros(0, 1, 2, 16)}, r"none of them 0, found \(0, 1, 2, 16\)"),
        ({"iq_values": torch.zeros(2, 1, 2, 16, dtype=torch.int64)}, "`iq_values`: expected a floating-point"),
        ({"iq_values": torch.zeros(2, 1, 2, 16, dtype=torch.complex64)}, "`iq_values`: expected a floating-point"),
        ({"iq_values": iq(1, 6, 16)}, "`iq_values`: expected at most 5 antennas, found 6"),
        (
            {"iq_values": iq(2, 1, 16), "iq_attention_mask": torch.zeros(2, 16)},
            r"`iq_attention_mask`: expected \(batch, antennas, samples\) = \(2, 1, 16\), found \(2, 16\)",
        ),
        (
            {"iq_values": iq(2, 1, 16), "iq_attention_mask": torch.ones(2, 1, 15)},
            r"`iq_attention_mask`: expected .* found \(2, 1, 15\)",
        ),
        ({"pixel_values": torch.zeros(1, 8, 8)}, r"`pixel_values`: expected .* found \(1, 8, 8\)"),
        ({"pixel_values": torch.zeros(1, 1, 8, 0)}, "none of them 0"),
        ({"pixel_values": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, "`pixel_values`: expected a floating-point"),
        ({"pixel_values": images(1, 3, 8, 8)}, r"`pixel_values`: expected 1 channels, found 3.*input_channels=3"),
        ({"pixel_values": images(1, 1, 8, 9)}, "divisible by the patch size 4, found 8 x 9"),
        (
            {"iq_values": iq(2, 1, 16), "pixel_values": images(3, 1, 8, 8)},
            "expected as many IQ samples as images, found 2 and 3",
        ),
    ],
)
@pytest.mark.parametrize("model_class", [MMWFMModel, MMWFMForPreTraining, MMWFMForSequenceClassification])
def test_inputs_that_cannot_be_read_are_refused(model_class, inputs, match):
    with pytest.raises(ValueError, match=match):
        make(model_class)(**inputs)


def test_a_family_that_the_checkpoint_lacks_is_refused():
    with pytest.raises(ValueError, match="this checkpoint's modalities .*iq.*found .*image"):
        make(MMWFMModel, modalities=["iq"])(pixel_values=images(1, 1, 8, 8))
    with pytest.raises(ValueError, match="this checkpoint's modalities .*image.*found .*iq"):
        make(MMWFMForPreTraining, modalities=["image"])(iq_values=iq(1, 1, 16))


@pytest.mark.parametrize("name, tokens", [("iq_noise", 4), ("image_noise", 4)])
def test_noise_of_the_wrong_shape_is_refused(name, tokens):
    inputs = {"iq_values": iq(2, 2, 16), "pixel_values": images(2, 1, 8, 8)}
    model = make(MMWFMForPreTraining)
    assert model(**inputs, **{name: torch.rand(2, tokens)}).loss.isfinite()
    with pytest.raises(ValueError, match=rf"noise: expected \(batch, tokens\) = \(2, {tokens}\), found \(2, 7\)"):
        model(**inputs, **{name: torch.rand(2, 7)})


@pytest.mark.parametrize(
    "labels, match",
    [
        (torch.tensor([0, 3]), "`labels`: expected classes 0 to 2, found 0 to 3"),
        (torch.tensor([-1, 0]), "`labels`: expected classes 0 to 2, found -1 to 0"),
        (torch.tensor([0]), r"expected class indices of shape \(2,\), found \(1,\)"),
        (torch.tensor([[0], [1]]), r"found \(2, 1\)"),
        (torch.tensor([0.0, 1.0]), "coordinates need `problem_type='regression'`"),
    ],
)
def test_class_labels_that_do_not_fit_are_refused(labels, match):
    with pytest.raises(ValueError, match=match):
        make(MMWFMForSequenceClassification, num_labels=3)(iq_values=iq(2, 1, 16), labels=labels)


def test_coordinates_of_the_wrong_shape_are_refused():
    model = make(MMWFMForSequenceClassification, num_labels=3, problem_type="regression")
    with pytest.raises(ValueError, match=r"`labels`: expected shape \(2, 3\), found \(2,\)"):
        model(iq_values=iq(2, 1, 16), labels=torch.zeros(2))


def test_results_come_as_tuples_where_the_configuration_asks_for_them():
    settings = {"iq_values": iq(1, 1, 16)}
    for model_class in (MMWFMModel, MMWFMForPreTraining, MMWFMForSequenceClassification):
        assert isinstance(make(model_class)(**settings, return_dict=False), tuple)
        assert isinstance(make(model_class, return_dict=False)(**settings), tuple)
