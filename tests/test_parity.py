"""The same numbers by another way: ViTMAE, attention implementations, checkpointing, compilation, bfloat16."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from modeling_mmwfm import MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from tests.small_models import images, iq, make, pad_iq

PADDED = pad_iq([iq(1, 2, 80, 3)[0], iq(1, 3, 61, 4)[0]], extra=4)
CLASSES = [MMWFMModel, MMWFMForPreTraining, MMWFMForSequenceClassification]


def joint_inputs(model_class, padded: bool = True) -> dict[str, torch.Tensor]:
    inputs = {**(PADDED if padded else {"iq_values": iq(2, 3, 80)}), "pixel_values": images(2, 1, 8, 12)}
    if model_class is MMWFMForPreTraining:
        tokens = 33 if padded else 30
        inputs |= {"iq_noise": torch.rand(2, tokens), "image_noise": torch.rand(2, 6)}
    if model_class is MMWFMForSequenceClassification:
        inputs["labels"] = torch.tensor([0, 1])
    return inputs


def backward(model, inputs) -> dict[str, torch.Tensor]:
    output = model(**inputs)
    (output.loss if "loss" in output else output.pooler_output.square().sum()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def vit_mae(norm_pix_loss: bool) -> ViTMAEForPreTraining:
    torch.manual_seed(0)
    config = ViTMAEConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
        **{"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2},
        **{"decoder_intermediate_size": 32, "image_size": 24, "patch_size": 4, "num_channels": 2},
        **{"mask_ratio": 0.7, "layer_norm_eps": 1e-6, "norm_pix_loss": norm_pix_loss},
    )
    model = ViTMAEForPreTraining(config).eval()
    # transformers leaves the position tables of a model that is not loaded at zero
    tables = (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed)
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(36)
    assert all(table[0, 1:].std() > 0.1 for table in tables)
    for name, parameter in model.named_parameters():
        if "embed" not in name or "decoder_embed" in name:  # not the fixed tables
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def named_as_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in state.items():
        if "position_embeddings" in key or "decoder_pos_embed" in key:
            continue
        if key.endswith("patch_embeddings.projection.weight"):  # Conv2d (D, C, P, P): we order (row, column, channel)
            value = value.permute(0, 2, 3, 1).flatten(1)
        for theirs, ours in (
            ("vit.embeddings.patch_embeddings.projection", "mmwfm.image_embeddings.projection"),
            ("vit.embeddings.cls_token", "mmwfm.cls_token"),
            ("vit.layernorm.", "mmwfm.norm."),
            ("vit.", "mmwfm."),
            ("decoder.decoder_embed", "decoder.projection"),
            ("decoder.decoder_layers", "decoder.layers"),
            ("decoder.decoder_norm", "decoder.norm"),
            ("decoder.decoder_pred", "decoder.heads.image"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
        ):
            key = key.replace(theirs, ours)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("normalize", [False, True])
def test_the_image_branch_is_vit_mae(normalize):
    theirs = vit_mae(normalize)
    ours = make(
        MMWFMForPreTraining,
        modalities=["image"],
        num_channels=2,
        affine_position="none",
        normalize_targets=normalize,
    )
    ours.load_state_dict(named_as_ours(theirs.state_dict()), strict=True)
    x, noise = images(3, 2, 24, 24), torch.rand(3, 36)
    expected, found = theirs(x, noise=noise), ours(pixel_values=x, image_noise=noise)
    assert torch.equal(found.image_mask, expected.mask)
    torch.testing.assert_close(found.image_logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert expected.logits.std() > 0.1


@pytest.mark.parametrize("model_class", CLASSES)
def test_eager_and_sdpa_attention_agree_with_padding(model_class):
    inputs = joint_inputs(model_class)
    sdpa, eager = (make(model_class, attn_implementation=name)(**inputs) for name in ("sdpa", "eager"))
    assert len(sdpa) >= 2
    for name in sdpa:
        torch.testing.assert_close(eager[name], sdpa[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_class", CLASSES)
def test_activation_checkpointing_gives_the_same_gradients(model_class):
    inputs = joint_inputs(model_class)
    expected = backward(make(model_class).train(), inputs)
    model, calls = make(model_class).train(), []
    model.activation_checkpointing_enable()
    layers = [module for module in model.modules() if type(module).__name__ == "MMWFMLayer"]
    for layer in layers:
        assert layer.gradient_checkpointing
        layer.norm1.register_forward_hook(lambda *arguments: calls.append(1))
    found = backward(model, inputs)
    assert len(calls) == 2 * len(layers)  # each block ran again on the way back
    assert any(gradient is not None and gradient.abs().max() > 1e-4 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("model_class", CLASSES)
def test_every_parameter_learns_from_a_joint_batch(model_class):
    gradients = backward(make(model_class).train(), joint_inputs(model_class))
    idle = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    # softmax ignores what is added to all scores of a query; the last decoder block likewise
    assert all(name.endswith("k_proj.bias") for name in idle), idle


@pytest.mark.parametrize("model_class", CLASSES)
def test_bfloat16_runs_forward_and_backward(model_class):
    inputs, reference = joint_inputs(model_class), make(model_class)
    model = make(model_class).bfloat16()
    output = model(**inputs)
    name = "pooler_output" if model_class is MMWFMModel else "loss"
    assert model.dtype == torch.bfloat16
    torch.testing.assert_close(output[name].float(), reference(**inputs)[name], atol=0.1, rtol=0.1)
    for key, gradient in backward(model, inputs).items():
        assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all(), key


def test_autocast_trains_with_padding():
    model, inputs = make(MMWFMForPreTraining), joint_inputs(MMWFMForPreTraining)
    expected = model(**inputs).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0.05)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_compiled_forward_gives_the_same(model_class, padded):
    inputs, model = joint_inputs(model_class, padded), make(model_class)
    expected = model(**inputs)
    torch.compiler.reset()
    # unpadded inputs compile into a single graph; the number of visible tokens of padded ones breaks it
    whole = not padded or model_class is not MMWFMForPreTraining
    compiled = torch.compile(model, backend="eager", fullgraph=whole)
    with torch.no_grad():
        found = compiled(**inputs)
    assert len(expected) >= 2
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_class", [MMWFMModel, MMWFMForSequenceClassification])
def test_hidden_states_and_attentions_are_returned_on_demand(model_class):
    inputs = joint_inputs(model_class)
    model = make(model_class, attn_implementation="eager")
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    tokens = 1 + 33 + 6
    assert [state.shape for state in output.hidden_states] == [(2, tokens, 32)] * 3  # input and both blocks
    assert [weights.shape for weights in output.attentions] == [(2, 4, tokens, tokens)] * 2
    encoder = getattr(model, "mmwfm", model)
    features = encoder(**{name: inputs[name] for name in (*PADDED, "pixel_values")}).last_hidden_state
    torch.testing.assert_close(encoder.norm(output.hidden_states[-1]), features)
    real = torch.zeros(2, 11, 3, dtype=torch.bool)  # segments, antennas
    real[0, :10, :2] = real[1, :8] = True
    padding = torch.cat([torch.ones(2, 1), real.flatten(1), torch.ones(2, 6)], dim=1) == 0
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, tokens))
        assert weights.transpose(1, 3)[padding].abs().max() == 0  # no query looks at padding


def test_the_affine_orders_differ():
    inputs = joint_inputs(MMWFMModel)
    outputs = []
    for position in ("projection", "tokens"):
        outputs.append(make(MMWFMModel, affine_position=position)(**inputs).pooler_output)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2
