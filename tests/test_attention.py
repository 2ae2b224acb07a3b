"""Attention in blocks: the same attention, chosen where it is faster."""

import pytest
import torch

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining
from modeling_mmwfm import attention_mmwfm as attention
from tests.small_sets import PRESETS

# Heads of one block, and what is left over: 2,304 byte of weights a head in float64 at 16 x 18 tokens.
SHAPE, KEYS = (3, 5, 16, 8), 18


def heads(dtype, shape=SHAPE, keys=KEYS):
    generator = torch.Generator().manual_seed(0)
    batch, count, queries, width = shape
    return [
        torch.randn(batch, count, tokens, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for tokens in (queries, keys, keys)
    ]


@pytest.fixture(params=[1, 4 * 2304, 1 << 21], ids=["a head", "four heads", "one block"])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", request.param)


def test_blocks_are_the_same_attention_with_the_same_gradients(block_bytes):
    parts, results = heads(torch.float64), []
    upstream = torch.randn(3, 16, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for attend in (attention.blocked_attention_forward, attention.eager_attention_forward):
        output = attend(None, *parts, None, scaling=0.3)[0]
        results.append((output, *torch.autograd.grad(output, parts, upstream)))
    expected = torch.nn.functional.scaled_dot_product_attention(*parts, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(results[0][0], expected, rtol=1e-12, atol=1e-12)
    for blocked, plain in zip(*results):
        torch.testing.assert_close(blocked, plain, rtol=1e-6, atol=1e-7)  # plain weights pass through float32


def test_gradients_are_the_slopes(block_bytes):
    parts = heads(torch.float64, (1, 3, 4, 2), 5)
    assert torch.autograd.gradcheck(lambda *p: attention.blocked_attention_forward(None, *p, None, 0.5)[0], parts)


@pytest.mark.filterwarnings("ignore")
def test_operators_are_registered_as_torch_requires(block_bytes):
    query, key, value = (part.detach().flatten(0, 1).requires_grad_() for part in heads(torch.float32))
    torch.library.opcheck(attention.blocked_attention, (query, key, value))


def test_only_training_in_bfloat16_on_a_cpu_takes_blocks():
    query, key, _ = heads(torch.bfloat16)
    chosen = attention.choose_attention("sdpa", query, key, None)
    assert chosen is attention.blocked_attention_forward
    mask = torch.zeros(1, 1, 16, 18, dtype=torch.bfloat16)
    others = [
        (*heads(torch.float32)[:2], None),
        (query.detach(), key, None),
        (query.detach().to("meta").requires_grad_(), key.to("meta"), None),
        (query, key, mask),
        (*heads(torch.bfloat16, (1, 1, 1025, 8), 1025)[:2], None),
        (*heads(torch.bfloat16, (512, 8, 197, 1), 197)[:2], None),
    ]
    for arguments in others:
        assert attention.choose_attention("sdpa", *arguments) is not attention.blocked_attention_forward
    assert attention.choose_attention("eager", query, key, None) is attention.eager_attention_forward


def pretraining_loss(implementation, num_steps=30):
    """Of the last five steps of training on one tone a sample."""
    config = MMWFMConfig.from_pretrained(PRESETS / "tiny", iq_targets={"log_spectrum": 1.0})
    config._attn_implementation = implementation
    torch.manual_seed(0)
    model, generator = MMWFMForPreTraining(config), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(num_steps):
        frequency = torch.rand(16, 1, 1, generator=generator) - 0.5
        tone = torch.exp(2j * torch.pi * frequency * torch.arange(512))
        noise = torch.rand(16, 32, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=implementation != "eager"):
            loss = model(iq_values=torch.stack([tone.real, tone.imag], 2), iq_noise=noise).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    return sum(losses[-5:]) / 5


def test_bfloat16_in_blocks_learns_what_float32_learns():
    assert pretraining_loss("sdpa") == pytest.approx(pretraining_loss("eager"), rel=0.01)
