"""Rows of the benchmark: name -> what measures them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from . import adapters, cost, finetuning, inference, preprocessing, pretraining, reading
from .models import precision_of
from .scale import Scale


class Row(NamedTuple):
    """
    Args:
        needs_bf16: compares in bf16 alone, and would take days where the device does not multiply faster in it.
    """

    measure: Callable[[Scale], dict[str, dict]]
    device: str = "cpu"
    needs_bf16: bool = False

    def lacks(self) -> str | None:
        """What this machine would need for the row, if it has not got it."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "a GPU"
        if self.needs_bf16 and precision_of(self.device) != "bf16":
            return "a device that multiplies faster in bf16"
        return None


def measure_gpu_pretraining(scale: Scale, size: str, device: str = "cuda") -> dict[str, dict]:
    preset = scale.gpu_preset if size == "base" else scale.preset
    return pretraining.measure(scale, precision_of(device), preset, device)


ROWS = {
    "pretraining-bf16": Row(partial(pretraining.measure, precision="bf16"), needs_bf16=True),
    "pretraining-fp32": Row(partial(pretraining.measure, precision="fp32")),
    "finetuning-lora": Row(partial(finetuning.measure_steps, regime="lora")),
    "finetuning-lp": Row(partial(finetuning.measure_steps, regime="lp")),
    "finetuning-cached": Row(finetuning.measure_cached),
    "inference-fp32": Row(partial(inference.measure, precision="fp32")),
    "inference-bf16": Row(partial(inference.measure, precision="bf16"), needs_bf16=True),
    "adapters": Row(adapters.measure),
    "preprocessing": Row(preprocessing.measure),
    "reading": Row(reading.measure),
    "cost-tokens": Row(partial(cost.measure, sweep="tokens")),
    "cost-batch": Row(partial(cost.measure, sweep="batch")),
    "cost-antennas": Row(partial(cost.measure, sweep="antennas")),
    "gpu-pretraining-small": Row(partial(measure_gpu_pretraining, size="small"), "cuda"),
    "gpu-pretraining-base": Row(partial(measure_gpu_pretraining, size="base"), "cuda"),
    "gpu-finetuning-lora": Row(partial(finetuning.measure_steps, regime="lora", device="cuda"), "cuda"),
    "gpu-finetuning-lp": Row(partial(finetuning.measure_steps, regime="lp", device="cuda"), "cuda"),
    "gpu-inference": Row(partial(inference.measure, precision="bf16", device="cuda"), "cuda", needs_bf16=True),
}
