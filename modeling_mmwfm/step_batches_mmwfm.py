"""What each step of pretraining sees: a function of (seed, step) alone, so that resuming is exact.

Order of the rows, carrier shifts and mask noise are drawn for the whole mini-batch; a process takes its rows of it.
"""

import inspect
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import IterableDataset as RowStream
from datasets.distributed import split_dataset_by_node
from safetensors.torch import save_file
from torch.utils.data import Dataset, IterableDataset

from .augmentation_mmwfm import Augmentations
from .mask_noise_mmwfm import add_noise
from .recipes_mmwfm import read_json
from .row_reading_mmwfm import RowReader

# What a model can be pretrained on -> argument of `forward`, in the order of training. Each has its own data set and
# shares the parts of its input family, IQ or image, with the others of that family.
INPUTS = {"image": "pixel_values", "csi": "pixel_values", "iq": "iq_values", "narrowband": "iq_values"}


def step_seed(*key: int) -> int:
    """Of torch's generator."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def family_of(source: str) -> str:
    return "iq" if INPUTS[source] == "iq_values" else "image"


def sources_of(model: torch.nn.Module, rows: dict) -> list[str]:
    """Names of `rows` in the order of training.

    Raises:
        ValueError: there are none, or some that the model does not take.
    """
    arguments = inspect.signature(model.forward).parameters
    modalities = getattr(model.config, "modalities", ("iq", "image"))
    known = [source for source, name in INPUTS.items() if name in arguments and family_of(source) in modalities]
    if not rows or not set(rows) <= set(known):
        raise ValueError(
            f"expected rows of {' or '.join(known)}, which this model has, found {sorted(rows) or 'none'}"
        )
    return [source for source in known if source in rows]


def read_augmentations(text: str | None) -> dict[str, Augmentations]:
    """JSON -> augmentations by source.

    Raises:
        ValueError: it is not that, or has other sources or fields, or numbers out of their range.
    """
    found = read_json(text or "{}", "augmentations")
    known = Augmentations.__dataclass_fields__
    for source, settings in found.items():
        if source not in INPUTS or not isinstance(settings, dict) or not settings.keys() <= known.keys():
            raise ValueError(
                f"`augmentations`: expected for some of {', '.join(INPUTS)} fields of {', '.join(known)}, found {text}"
            )
    return {source: Augmentations(**settings) for source, settings in found.items()}


class SourceBatches:
    """Mini-batches of one source.

    Args:
        rows: of the training split, in NumPy format.
        collator: `(columns, draws, generator) -> batch`, with a number in [-1, 1) of each row for its carrier shift and
            a generator of this process's augmentations.
        batch_size: rows of a step over all processes.
        num_steps: of the run.
        key: of all random draws.
        noise_config: the model's configuration, if the model takes `{family}_noise`.

    Raises:
        ValueError: fewer rows in a step than processes.
    """

    def __init__(self, rows, collator, batch_size, num_steps, key, rank=0, world_size=1, noise_config=None):
        self.rows, self.collator, self.num_steps, self.key = rows, collator, num_steps, key
        self.batch_size, self.noise_config = batch_size, noise_config
        if batch_size < world_size:
            raise ValueError(
                f"expected a row of each step for each of {world_size} processes, found {batch_size} rows"
            )
        self.own, self.rank = slice(rank, None, world_size), rank
        self.own_size = len(range(batch_size)[self.own])
        # Processes' gradients are averaged: a process with more rows counts for more.
        self.weight = self.own_size * world_size / batch_size

    def collate(self, step: int, columns: dict) -> dict[str, torch.Tensor]:
        """This process's rows of a step -> its part of the batch."""
        shifts, noise = (np.random.default_rng([*self.key, step, number]) for number in (1, 2))
        augmentations = np.random.default_rng([*self.key, step, 3, self.rank])
        batch = self.collator(columns, shifts.uniform(-1, 1, self.batch_size)[self.own], augmentations)
        if self.noise_config is not None:

            def draw(count):
                return torch.from_numpy(noise.random((self.batch_size, count), dtype=np.float32)[self.own].copy())

            add_noise(batch, self.noise_config, draw)
        return batch


class StepBatches(SourceBatches, Dataset):
    """From a data set on disk. Each pass over it has its own order; the source with fewer rows restarts."""

    def __init__(self, rows, collator, batch_size, *args, **kwargs):
        super().__init__(rows, collator, min(batch_size, len(rows)), *args, **kwargs)
        self.batches_per_pass = len(rows) // self.batch_size
        self.reader = RowReader(rows)
        self.order = (None, None)

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        number, batch = divmod(step, self.batches_per_pass)
        if self.order[0] != number:
            self.order = number, np.random.default_rng([*self.key, number]).permutation(len(self.rows))
        index = np.sort(self.order[1][batch * self.batch_size : (batch + 1) * self.batch_size])
        return self.collate(step, self.reader[index[self.own]])


class StreamBatches(SourceBatches, IterableDataset):
    """From a data set that is read as it comes, from step `first` on.

    Every process reads its shards (its rows, if the shards cannot be shared equally) and shuffles them in a buffer.
    Resuming reads the stream again up to its step: exact with the same number of processes.
    """

    def __init__(self, rows, collator, batch_size, num_steps, key, rank=0, world_size=1, buffer_size=1000, **kwargs):
        rows = split_dataset_by_node(rows, rank, world_size).shuffle(seed=step_seed(*key), buffer_size=buffer_size)
        super().__init__(rows, collator, batch_size, num_steps, key, rank, world_size, **kwargs)
        self.first = 0

    def __iter__(self):
        for step, columns in itertools.islice(enumerate(self.read()), self.first, self.num_steps):
            yield self.collate(step, columns)

    def read(self):
        """Columns of step after step, without end."""
        for number in itertools.count():
            self.rows.set_epoch(number)
            step = None
            for step in self.rows.iter(self.own_size, drop_last_batch=True):
                yield step
            if step is None:
                raise ValueError(f"expected a stream of {self.own_size} rows or more for each process, found fewer")

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        return self.collate(step, next(itertools.islice(self.read(), step, None)))


def loader_of(batches: StepBatches | StreamBatches, first: int, num_workers: int, pin_memory: bool):
    """Iterator over the batches from step `first` on."""
    settings = {"batch_size": None, "pin_memory": pin_memory}
    if isinstance(batches.rows, RowStream):
        batches.first = first
        # One worker: each would read the whole stream.
        return iter(torch.utils.data.DataLoader(batches, num_workers=min(num_workers, 1), **settings))
    steps = range(first, batches.num_steps)
    return iter(torch.utils.data.DataLoader(batches, sampler=steps, num_workers=num_workers, **settings))


class FiniteCheck:
    """Finds the first step whose loss or gradient norm is not finite; looking waits for the device, noting does not."""

    def __init__(self, accelerator: Accelerator, seed: int):
        self.accelerator, self.seed = accelerator, seed
        self.first_bad = torch.full((1,), -1, device=accelerator.device)

    def note(self, step: int, losses: dict[str, torch.Tensor], gradient_norm: torch.Tensor):
        values = list(losses.values())
        if self.accelerator.scaler is None:  # the scaler of fp16 skips such steps by itself
            values.append(gradient_norm)
        finite = torch.stack([value.detach().float().reshape(()) for value in values]).isfinite().all()
        self.first_bad = torch.where(finite | (self.first_bad >= 0), self.first_bad, step)

    def look(self, batches: dict[str, SourceBatches], output_dir: Path):
        """
        Raises:
            ValueError: a step was not finite; its batch and seeds are saved.
        """
        bad = self.accelerator.gather(self.first_bad)
        if (bad < 0).all():
            return
        step = int(bad[bad >= 0].min())
        path = output_dir / f"nonfinite_step_{step + 1}.safetensors"
        parts = gather_object([{name: source[step] for name, source in batches.items()}])
        if self.accelerator.is_main_process:
            tensors = {
                f"{source}.{name}": torch.cat([part[source][name] for part in parts]).contiguous()
                for source, batch in parts[0].items()
                for name in batch
            }
            seeds = [step_seed(self.seed, step, rank) for rank in range(len(parts))]
            save_file(tensors, path, {"step": str(step + 1), "seed": str(self.seed), "torch_seeds": json.dumps(seeds)})
        self.accelerator.wait_for_everyone()
        raise ValueError(
            f"expected a finite loss and gradient norm, found another at step {step + 1}; its batch and random seeds "
            f"are in {path}"
        )
