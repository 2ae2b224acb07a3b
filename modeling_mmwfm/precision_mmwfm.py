"""Mixed precision: the device that trains, and what `auto` is on it."""

import functools
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

PRECISIONS = ("no", "bf16", "fp16")
PRECISION = {  # of the field `mixed_precision`
    "choices": ["auto", *PRECISIONS],
    "help": "auto: what the run began with; or what `accelerate launch` names, if that is not `no`; or bf16 where this "
    "device multiplies matrices faster in it, fp32 (`no`) elsewhere. What is given here goes before what is launched",
}
# Rows and columns of matrices -> how many times as long as in fp32 bf16 may take. Processors without instructions for it
# need a second for one product of the larger, so they are found out at the smaller.
LIMITS = {128: 3, 512: 1}


def check_precision(name: str):
    """
    Raises:
        ValueError: an unknown name.
    """
    if name not in PRECISION["choices"]:
        raise ValueError(f"`mixed_precision`: expected {', '.join(PRECISION['choices'])}, found {name!r}")


def use_cpu() -> bool:
    """Accelerate shares work between processes on CPUs only when it is told that there is nothing else."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


@torch.enable_grad()
def seconds_of_products(size: int, dtype: torch.dtype) -> float:
    """Least time of a linear layer's forward and backward pass on a CPU: three products, of which one may be slow."""
    rows, weight = (torch.ones(size, size, dtype=dtype, device="cpu", requires_grad=True) for _ in range(2))
    seconds = []
    for _ in range(5):  # the first ones prepare what later ones use
        start = time.perf_counter()
        torch.autograd.grad(torch.nn.functional.linear(rows, weight), (rows, weight), torch.ones_like(rows))
        seconds.append(time.perf_counter() - start)
        if len(seconds) > 1 and sum(seconds) > 0.1:
            break
    return min(seconds)


@functools.cache
def multiplies_faster_in_bf16() -> bool:
    """Whether this machine's CPU does; measured once in a process, in a fraction of a second."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other, on a busy machine longer than they multiply
    try:
        return all(
            seconds_of_products(size, torch.bfloat16) < most * seconds_of_products(size, torch.float32)
            for size, most in LIMITS.items()
        )
    finally:
        torch.set_num_threads(num_threads)


def is_faster_in_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return multiplies_faster_in_bf16()
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).is_bf16_supported(including_emulation=False)
    return False  # others cannot be asked


def resolve_precision(name: str, device: torch.device) -> str:
    """One of `PRECISIONS`: `name` itself, or what "auto" is on the device.

    Raises:
        ValueError: another name.
    """
    if name == "auto":
        name = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # of a launch file, where ours leave it open
        if name == "no" and is_faster_in_bf16(device):
            name = "bf16"
    check_precision(name)
    return name


def settle_precision(arguments, run_file: Path):
    """`arguments` with what their `mixed_precision` is, the same in every process.

    Args:
        run_file: JSON that an earlier start of the run may have left, whose precision "auto" then is.
    """
    if arguments.mixed_precision != "auto":
        return arguments
    state, found = PartialState(cpu=use_cpu()), [None]
    if state.is_main_process:  # others may measure otherwise
        begun = json.loads(run_file.read_text()).get("mixed_precision") if run_file.is_file() else None
        found = [begun or resolve_precision("auto", state.device)]
        print(f"mixed precision: {found[0]}, {'as the run began' if begun else 'by `auto`'}")
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    return replace(arguments, mixed_precision=found[0])
