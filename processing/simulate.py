"""Simulate a data set: `python -m processing.simulate rfp --samples 12000 --seed 0 --num_proc 2 --output data/rfp`.

The folder opens with `load_dataset("data/rfp")`. Task, seed and options determine the data: a row of the same
recording and start is the same whatever `--num_proc` and `--samples`.
"""

import argparse
from functools import partial
from pathlib import Path

from processing.simulation import (
    has,
    interference,
    positioning,
    pretrain_csi,
    pretrain_iq,
    pretrain_narrowband,
    pretrain_spectrogram,
    rfp,
    rfs,
)
from processing.writing import write_dataset

VERSION = 3  # of the simulation: raised when the same seed gives other data

# A task is a module (or an object) with TASK, DEFAULT_SAMPLES, SPLITS (name -> share), OPTIONS (name -> allowed
# values), IMAGE_VALUES (unit and axes) if its rows are images, features(), plan(split -> samples) -> split -> items,
# and rows(seed, split, item, **options) -> iterable of rows.
TASKS = {
    task.TASK: task
    for task in (
        pretrain_iq,
        pretrain_narrowband,
        pretrain_spectrogram,
        pretrain_csi,
        rfp,
        interference,
        has,
        rfs,
        positioning.INDOOR,
        positioning.OUTDOOR,
    )
}


def split_samples(samples: int, shares: dict[str, float]) -> dict[str, int]:
    """Number of samples of every split: its share, at least one, the rest goes to the first."""
    if samples < len(shares):
        raise ValueError(
            f"expected at least {len(shares)} samples, one for each of {', '.join(shares)}; found {samples}"
        )
    first, *others = shares
    counts = {split: max(1, int(samples * shares[split])) for split in others}
    return {first: samples - sum(counts.values()), **counts}


def _check_options(task, options):
    allowed = TASKS[task].OPTIONS
    for name, value in options.items():
        if name not in allowed:
            raise ValueError(f"expected options of {task} among {sorted(allowed)}, found {name!r}")
        if value not in allowed[name]:
            raise ValueError(f"expected {name} to be one of {allowed[name]}, found {value!r}")


def simulate(
    task: str, output_dir: str | Path, samples: int | None = None, seed: int = 0, num_proc: int = 1, **options
) -> Path:
    """Simulate `samples` rows of a task into `output_dir`; nothing is done if the same call has already made it.

    Args:
        samples: rows over all splits; default: the task's own.
        options: of the task, its `OPTIONS`: `control="same-hardware"`, "nothing-differs" or "channel-only" for `rfp`,
            `regions="checkerboard"` for positioning.
    """
    if task not in TASKS:
        raise ValueError(f"expected task to be one of {', '.join(TASKS)}; found {task!r}")
    if seed < 0:
        raise ValueError(f"expected seed >= 0, found {seed}")
    if num_proc < 1:
        raise ValueError(f"expected num_proc >= 1, found {num_proc}")
    _check_options(task, options)
    module = TASKS[task]
    samples = module.DEFAULT_SAMPLES if samples is None else samples
    items = module.plan(split_samples(samples, module.SPLITS))
    recipe = {"task": task, "samples": samples, "seed": seed, "options": options, "version": VERSION}
    return write_dataset(output_dir, module.features(), items, partial(module.rows, seed, **options), recipe, num_proc)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--samples", type=int, help="rows over all splits (default: the task's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_proc", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    names = {name: (task.TASK, values) for task in TASKS.values() for name, values in task.OPTIONS.items()}
    for name, (task, values) in names.items():
        choices = [value for value in values if value is not None]
        parser.add_argument(f"--{name}", choices=choices, help=f"variant of {task}")
    args = parser.parse_args(arguments)
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    try:
        print(simulate(args.task, args.output, args.samples, args.seed, args.num_proc, **options))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
