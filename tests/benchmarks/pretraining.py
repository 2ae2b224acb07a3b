"""One step of pretraining: forward, backward, fused AdamW."""

from collections.abc import Callable

import torch
from torch import nn

from .models import DTYPES, images, iq, our_mae, peer_mae, with_compiled
from .scale import Scale
from .timing import Call, flop_of, peak_call, take_turns, wait_for

PEAK = "matrix product"


def training_step(
    model: nn.Module, inputs: dict[str, torch.Tensor], dtype: torch.dtype, device: str
) -> Callable[[], None]:
    """Of what trains, under autocast unless `dtype` is float32."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    model.train()

    def step():
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait_for(device)

    return step


def our_steps(preset, scale: Scale, dtype: torch.dtype, device: str, batch_size: int, kind: str) -> dict[str, Call]:
    """Eager and compiled, on "images" or "IQ"."""

    def inputs(size, on=device):
        return images(size, scale, on) if kind == "images" else iq(size, scale.antennas, scale.samples, on)

    flop = batch_size * flop_of(our_mae(preset, "eager"), inputs(1, "cpu"), trains=True)
    batch, models = inputs(batch_size), with_compiled({"ours": our_mae(preset).to(device)}, scale)
    return {
        f"{kind}, {name}": Call(training_step(model, batch, dtype, device), batch_size, "samples", flop)
        for name, model in models.items()
    }


def peer_steps(preset, scale: Scale, dtype: torch.dtype, device: str, batch_size: int) -> dict[str, Call]:
    flop = batch_size * flop_of(peer_mae(preset, scale.image_size, "eager"), images(1, scale), trains=True)
    batch = images(batch_size, scale, device)
    models = with_compiled({"ViTMAE": peer_mae(preset, scale.image_size).to(device)}, scale)
    return {
        f"images, {name}": Call(training_step(model, batch, dtype, device), batch_size, "samples", flop)
        for name, model in models.items()
    }


def measure(scale: Scale, precision: str, preset: str | None = None, device: str = "cpu") -> dict[str, dict]:
    """Images and IQ, ours and ViTMAE's (which has no IQ), and the peak of matrix products."""
    preset, dtype = preset or scale.preset, DTYPES[precision]
    batch_size = scale.batch_size if device == "cpu" else scale.gpu_batch_size
    matrix_size = scale.matrix_size if device == "cpu" else scale.gpu_matrix_size
    calls = {PEAK: peak_call(matrix_size, dtype, device), **peer_steps(preset, scale, dtype, device, batch_size)}
    for kind in ("images", "IQ"):
        calls |= our_steps(preset, scale, dtype, device, batch_size, kind)
    return take_turns(calls, scale)
