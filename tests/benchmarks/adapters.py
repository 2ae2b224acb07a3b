"""A batch whose rows name several adapters, and the same batch of one adapter, on one encoder."""

import tempfile

import torch

from modeling_mmwfm import MMWFMModel
from modeling_mmwfm.adapters_mmwfm import MMWFMAdapters
from tests.small_models import write_adapter

from .models import images, iq, our_mae
from .scale import Scale
from .timing import Call, take_turns

NAMES = ("first", "second", "third", "fourth")


def measure(scale: Scale) -> dict[str, dict]:
    """In float32, of IQ and of images."""
    with tempfile.TemporaryDirectory() as folder:
        our_mae(scale.preset).save_pretrained(f"{folder}/base")
        adapters = MMWFMAdapters(MMWFMModel.from_pretrained(f"{folder}/base"))
        for name in NAMES:
            adapters.load(write_adapter(f"{folder}/base", f"{folder}/{name}", ["iq", "image"], {}, rank=32))

    @torch.no_grad()
    def run(names, batch):
        adapters(names, **batch)

    size = scale.batch_size
    batches = {"IQ": iq(size, scale.antennas, scale.samples), "images": images(size, scale)}
    calls = {}
    for kind, batch in batches.items():
        rows = [NAMES[row % len(NAMES)] for row in range(size)]
        calls[f"{kind}, one adapter"] = Call(lambda b=batch: run(NAMES[0], b), size)
        calls[f"{kind}, four adapters"] = Call(lambda r=rows, b=batch: run(r, b), size)
    return take_turns(calls, scale)
