"""From a folder of Parquet to batches: our loader, and `datasets`' torch format in torch's DataLoader.

Ours gives the model's input, normalised; the peer raw tensors. Both read Arrow files that `datasets` has made of the
Parquet once, from memory if they fit it.
"""

import itertools
import tempfile
from functools import partial

import numpy as np
from datasets import load_dataset
from torch.utils.data import DataLoader

from modeling_mmwfm import MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, load_splits
from modeling_mmwfm.step_batches_mmwfm import StepBatches, loader_of
from processing.schema import image_features, iq_features
from processing.writing import write_dataset

from .scale import Scale
from .timing import Call, take_turns

COMMON = {
    "group": "",
    "sampling_rate_hz": 1e6,
    "center_frequency_hz": 0.0,
    "start": 0,
    "parameters": "{}",
    "source": "noise",
}


def noise_row(column: str, shape: tuple[int, ...], split: str, number: int):
    values = np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
    yield {column: values, "recording": str(number), "split": split, **COMMON}


def write_noise(folder: str, column: str, scale: Scale):
    if column == "image":
        shape = (1, scale.image_size, scale.image_size)
        features = image_features(*shape)
    else:
        shape = (scale.antennas, scale.samples, 2)
        features = iq_features(*shape[:2])
    items = {"train": range(scale.dataset_rows)}
    return write_dataset(folder, features, items, partial(noise_row, column, shape), {"column": column})


def our_batches(folder: str, cache_dir: str, scale: Scale):
    processor = MMWFMProcessor(image_processor=MMWFMImageProcessor(keep_size=True))
    rows = load_splits(folder, cache_dir=cache_dir)["train"]
    batches = StepBatches(rows, MMWFMDataCollator(processor), scale.batch_size, num_steps=10**9, key=(0, 0))
    return loader_of(batches, 0, num_workers=0, pin_memory=False)


def peer_batches(folder: str, cache_dir: str, column: str, scale: Scale):
    rows = load_dataset(folder, split="train", cache_dir=cache_dir).select_columns([column]).with_format("torch")
    return itertools.chain.from_iterable(
        itertools.repeat(DataLoader(rows, scale.batch_size, shuffle=True, drop_last=True))
    )


def measure(scale: Scale) -> dict[str, dict]:
    calls = {}
    with tempfile.TemporaryDirectory() as work:
        for kind, column in (("images", "image"), ("IQ", "iq")):
            folder = str(write_noise(f"{work}/{column}", column, scale))
            ours, peer = (
                our_batches(folder, f"{work}/cache", scale),
                peer_batches(folder, f"{work}/cache", column, scale),
            )
            calls[f"{kind}, ours"] = Call(partial(next, ours), scale.batch_size)
            calls[f"{kind}, datasets"] = Call(partial(next, peer), scale.batch_size)
        return take_turns(calls, scale)
