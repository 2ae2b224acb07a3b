"""Time and peak memory over the number of tokens, the batch size and the antennas, of IQ.

python -m tests.benchmarks.cost '{"kind": "step", "precision": "bf16", "batch_size": 1, "antennas": 1, "samples": 1024, ...}'
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from .models import DTYPES, iq, our_config, our_mae, precision_of
from .pretraining import training_step
from .scale import Scale
from .timing import Call, take_turns

KINDS = {"forward": "encoder forward", "step": "pretraining step"}


def peak_bytes() -> int:
    """Most memory that this process has held so far.

    On Linux by its count in KiB, not by `getrusage`, whose maximum a new process inherits there from the one that
    started it; macOS has that alone, in bytes.
    """
    if not Path("/proc/self/status").is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def measure_point(
    kind: str, preset: str, precision: str, batch_size: int, antennas: int, samples: int, threads: int, **scale
) -> dict:
    """An encoder's forward pass over all tokens, or a pretraining step, which hides most of them."""
    torch.set_num_threads(threads)
    inputs, model = iq(batch_size, antennas, samples), our_mae(preset)
    dtype = DTYPES[precision]
    run = training_step(model, inputs, dtype, "cpu")
    if kind == "forward":
        encoder = model.mmwfm.eval()

        def run():
            with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                encoder(**inputs)

    tokens = batch_size * antennas * samples // model.config.segment_length
    before = peak_bytes()
    series = take_turns({"point": Call(run, tokens, "tokens")}, Scale(**scale))["point"]
    return {
        **series,
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
        "batch_size": batch_size,
        "antennas": antennas,
    }


def measure(scale: Scale, sweep: str) -> dict[str, dict]:
    """In the recipes' precision. `sweep`: "tokens" (of one antenna), "batch" or "antennas"."""
    length = our_config(scale.preset).segment_length
    points = {
        "tokens": [(scale.cost_batch_size, 1, tokens * length) for tokens in scale.cost_tokens],
        "batch": [(batch_size, scale.antennas, scale.samples) for batch_size in scale.cost_batch_sizes],
        "antennas": [(scale.cost_batch_size, antennas, scale.samples) for antennas in scale.cost_antennas],
    }[sweep]
    values = {"tokens": scale.cost_tokens, "batch": scale.cost_batch_sizes, "antennas": scale.cost_antennas}[sweep]
    found = {}
    for kind, title in KINDS.items():
        for value, (batch_size, antennas, samples) in zip(values, points):
            point = {"kind": kind, "preset": scale.preset, "precision": precision_of(), "batch_size": batch_size}
            point |= {"antennas": antennas, "samples": samples, "threads": scale.threads}
            point |= {"repeats": scale.cost_repeats, "min_seconds": scale.min_seconds}
            found[f"{title}, {value}"] = {**measure_apart(point, scale), "size": value}
    return found


def measure_apart(point: dict, scale: Scale) -> dict:
    if not scale.fresh_processes:
        return measure_point(**point)
    command = [sys.executable, "-m", "tests.benchmarks.cost", json.dumps(point)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure_point(**json.loads(sys.argv[1]))))
