"""Calls that are timed by turns: what else slows the machine hits all of them alike."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from .scale import Scale


@dataclass
class Call:
    """
    Args:
        run: does the work once and waits until it is done.
        items: how many samples, windows or tokens that work is.
        unit: of the items.
        flop: floating-point operations of its matrix products, if counted.
    """

    run: Callable[[], object]
    items: float
    unit: str = "samples"
    flop: float | None = None


def seconds_of(run: Callable[[], object], times: int = 1) -> float:
    """Mean of so many calls."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def take_turns(calls: dict[str, Call], scale: Scale) -> dict[str, dict]:
    """Name -> `seconds` (one value a round), `items`, `unit` and `flop` of a call."""
    times, seconds = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call.run()  # compiles, and fills caches
        times[name] = max(1, math.ceil(scale.min_seconds / seconds_of(call.run)))
    for _ in range(scale.repeats):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call.run, times[name]))
    return {
        name: {"seconds": seconds[name], "items": call.items, "unit": call.unit, "flop": call.flop}
        for name, call in calls.items()
    }


def wait_for(device: str):
    if device == "cuda":
        torch.cuda.synchronize()


def flop_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor], trains: bool) -> int:
    """Of the matrix products and convolutions of a forward and, if it trains, a backward pass.

    The model needs eager attention, whose products are seen; those inside the CPU's sdpa are not.
    """
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trains):
        output = model(**inputs)
        if trains:
            output.loss.backward()
    return counter.get_total_flops()


def peak_call(size: int, dtype: torch.dtype, device: str = "cpu") -> Call:
    """Product of two square matrices, which shows what the machine's arithmetic reaches."""
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def run():
        torch.mm(first, second)
        wait_for(device)

    return Call(run, 1, "products", 2 * size**3)
