"""Masked wireless modeling (Algorithm 1): every optimiser step takes one mini-batch of each input family."""

import contextlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from datasets import Dataset as RowDataset
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .cards_mmwfm import write_pretraining_card
from .data_collator_mmwfm import MMWFMDataCollator
from .figures_mmwfm import plot_losses, plot_reconstruction
from .modeling_mmwfm import MMWFMForPreTraining
from .processing_mmwfm import MMWFMProcessor

LOG_FILE = "training_log.json"


@dataclass
class PretrainingArguments:
    """How to pretrain; the defaults are the paper's recipe."""

    output_dir: str = field(metadata={"help": "folder of the model, its checkpoints and figures"})
    num_train_epochs: float = field(default=800, metadata={"help": "passes over the larger family"})
    warmup_epochs: float = field(default=40, metadata={"help": "linear warm-up, then cosine to 0"})
    batch_size: int = field(default=256, metadata={"help": "samples of each family in a step, over all processes"})
    base_learning_rate: float = field(default=1e-3, metadata={"help": "for 256 samples; scaled with batch_size"})
    weight_decay: float = field(default=0.05, metadata={"help": "of matrices; vectors are not decayed"})
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    max_grad_norm: float | None = field(default=None, metadata={"help": "clip the norm of the summed gradients"})
    carrier_shift: float = field(default=0.0, metadata={"help": "random carrier shift, share of the sampling rate"})
    mixed_precision: str = field(default="no", metadata={"choices": ["no", "bf16", "fp16"]})
    torch_compile: bool = False
    num_workers: int = field(default=0, metadata={"help": "processes that prepare batches of each family"})
    logging_steps: int = 10
    eval_epochs: float = field(default=1, metadata={"help": "epochs between validations"})
    save_epochs: float = field(default=20, metadata={"help": "epochs between checkpoints"})
    save_total_limit: int = field(default=2, metadata={"help": "checkpoints kept"})
    seed: int = 0


class StepBatches(Dataset):
    """The mini-batch of one family at any step, a pure function of (seed, step, process): resuming is exact.

    Each pass over the rows has its own order; the family with fewer rows restarts.
    """

    def __init__(self, rows: RowDataset, collator, batch_size: int, num_steps: int, seed: int, rank=0, world_size=1):
        self.rows, self.collator, self.num_steps, self.seed = rows, collator, num_steps, seed
        self.batch_size = min(batch_size, len(rows))
        self.batches_per_pass = len(rows) // self.batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        number, batch = divmod(step, self.batches_per_pass)
        order = np.random.default_rng([self.seed, number]).permutation(len(self.rows))
        index = order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rank :: self.world_size]
        columns = self.rows[np.sort(index)]
        return self.collator(columns, np.random.default_rng([self.seed, step, self.rank, 1]))


def split_decay(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups: matrices with, vectors (norms, biases, tokens) without weight decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.squeeze().ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.squeeze().ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def validation_losses(model, rows: dict[str, RowDataset], collator, batch_size: int) -> dict[str, float]:
    """Reconstruction loss of every family over its validation rows, under masks that are always the same."""
    was_training = model.training
    model.eval()
    losses = {}
    for family, dataset in rows.items():
        total, count = 0.0, 0
        for start in range(0, len(dataset), batch_size):
            batch = collator(dataset[start : start + batch_size])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(start)
                noise = torch.rand(noise_shape(model, batch))
            batch = {key: value.to(model.device) for key, value in batch.items()}
            output = model(**batch, **{f"{family}_noise": noise.to(model.device)})
            size = len(noise)
            total, count = total + output.loss.item() * size, count + size
        losses[f"validation_{family}_loss"] = total / count
    model.train(was_training)
    return losses


def noise_shape(model, batch) -> tuple[int, int]:
    """(batch, tokens) of a batch of one family."""
    config = model.config
    if "iq_values" in batch:
        size, antennas, _, samples = batch["iq_values"].shape
        return size, antennas * math.ceil(samples / config.segment_length)
    size, _, height, width = batch["pixel_values"].shape
    return size, (height // config.patch_size) * (width // config.patch_size)


class Progress:
    """What a checkpoint holds beside model, optimiser and schedule."""

    def __init__(self):
        self.step, self.log = 0, []

    def state_dict(self):
        return {"step": self.step, "log": json.dumps(self.log)}

    def load_state_dict(self, state):
        self.step, self.log = state["step"], json.loads(state["log"])


def latest_checkpoint(output_dir: Path) -> Path | None:
    found = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return found[-1] if found else None


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, keep: int):
    """Under a temporary name first: a checkpoint that can be seen is complete."""
    unfinished = output_dir / f".unfinished-{step}"
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        unfinished.rename(output_dir / f"checkpoint-{step}")
        found = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        for old in found[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def pretrain(
    model: MMWFMForPreTraining,
    processor: MMWFMProcessor,
    train_rows: dict[str, RowDataset],
    validation_rows: dict[str, RowDataset],
    arguments: PretrainingArguments,
    provenance: dict | None = None,
) -> list[dict]:
    """Pretrain, save and draw; resumes from the newest checkpoint and does nothing if the run has ended.

    Args:
        train_rows, validation_rows: by family ("iq", "image"), in NumPy format.
        provenance: what identifies the run beside `arguments` (data, initial weights); a run under other arguments is
            not resumed.

    Returns:
        the log, a row for each time something was measured.

    Raises:
        ValueError: `output_dir` holds a run of other arguments, or the loss is not finite.
    """
    output_dir = Path(arguments.output_dir)
    run = json.loads(json.dumps({**asdict(arguments), **(provenance or {})}))
    run.pop("output_dir")
    if (log := finished_log(output_dir, run)) is not None:
        return log
    families = [family for family in ("image", "iq") if family in train_rows]
    largest = max(len(train_rows[family]) for family in families)
    steps_per_epoch = max(1, largest // min(arguments.batch_size, largest))
    num_steps = math.ceil(arguments.num_train_epochs * steps_per_epoch)

    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        step_scheduler_with_optimizer=False,
        # Each family leaves the other's projections and head without gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=len(families) > 1)],
    )
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        for unfinished in output_dir.glob(".unfinished-*"):
            shutil.rmtree(unfinished)
        (output_dir / "run.json").write_text(json.dumps(run, indent=1))
    set_seed(arguments.seed)
    optimizer = torch.optim.AdamW(
        split_decay(model, arguments.weight_decay),
        lr=arguments.base_learning_rate * arguments.batch_size / 256,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
    )
    warmup_steps = int(arguments.warmup_epochs * steps_per_epoch)
    scheduler = get_cosine_schedule_with_warmup(optimizer, warmup_steps, num_steps)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    step_model = torch.compile(model) if arguments.torch_compile else model
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    if (checkpoint := latest_checkpoint(output_dir)) is not None:
        accelerator.load_state(str(checkpoint))

    collator = MMWFMDataCollator(processor, arguments.carrier_shift)
    loaders = {}
    for number, family in enumerate(families):
        batches = StepBatches(
            train_rows[family],
            collator,
            arguments.batch_size,
            num_steps,
            seed=1000 * arguments.seed + number,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        loader = DataLoader(
            batches, batch_size=None, sampler=range(progress.step, num_steps), num_workers=arguments.num_workers
        )
        loaders[family] = iter(loader)

    every = {name: max(1, int(getattr(arguments, f"{name}_epochs") * steps_per_epoch)) for name in ("eval", "save")}
    bar = tqdm(
        total=num_steps, initial=progress.step, desc="pretraining", disable=not accelerator.is_local_main_process
    )
    sums = dict.fromkeys(families, 0.0)
    model.train()
    for step in range(progress.step, num_steps):
        entropy = [arguments.seed, step, accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))  # mask noise
        for family in families:
            batch = {key: value.to(accelerator.device) for key, value in next(loaders[family]).items()}
            # Gradients of the families are summed; processes exchange them once, with the last family.
            waiting = accelerator.no_sync(model) if family != families[-1] else contextlib.nullcontext()
            with waiting, accelerator.autocast():
                loss = step_model(**batch).loss
                accelerator.backward(loss)
            sums[family] = sums[family] + loss.detach()
        if arguments.max_grad_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        progress.step = step + 1
        bar.update()
        row = {"step": step + 1, "epoch": (step + 1) / steps_per_epoch}
        last = step + 1 == num_steps
        if (step + 1) % arguments.logging_steps == 0 or last:
            count = (step % arguments.logging_steps) + 1
            losses = {f"{family}_loss": float(total) / count for family, total in sums.items()}
            sums = dict.fromkeys(families, 0.0)
            if not all(math.isfinite(value) for value in losses.values()):
                raise ValueError(f"expected a finite loss, found {losses} at step {step + 1}")
            row |= losses | {"learning_rate": scheduler.get_last_lr()[0]}
            bar.set_postfix({key: f"{value:.3f}" for key, value in losses.items()})
        if validation_rows and ((step + 1) % every["eval"] == 0 or last):
            unwrapped = accelerator.unwrap_model(model)
            row |= validation_losses(unwrapped, validation_rows, collator, arguments.batch_size)
        if len(row) > 2:
            progress.log.append(row)
        if (step + 1) % every["save"] == 0 and not last:
            save_checkpoint(accelerator, output_dir, step + 1, arguments.save_total_limit)
    bar.close()
    if accelerator.is_main_process:
        figure_rows = validation_rows or train_rows
        finish(accelerator.unwrap_model(model), processor, collator, figure_rows, progress.log, output_dir, run)
    accelerator.wait_for_everyone()
    return progress.log


def finish(model, processor, collator, rows, log, output_dir: Path, run: dict):
    """Save the model as a Hub-ready folder, draw its losses and reconstructions; the log marks the end."""
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    plot_losses(log, output_dir / "losses.png")
    for family, dataset in rows.items():
        plot_reconstruction(model, collator(dataset[:3]), output_dir / f"reconstruction_{family}.png")
    datasets = {family: run.get(f"{family}_dataset") or "not named" for family in rows}
    write_pretraining_card(output_dir, log, datasets)
    unfinished = output_dir / f".{LOG_FILE}"
    unfinished.write_text(json.dumps(log, indent=1))
    unfinished.rename(output_dir / LOG_FILE)
    for checkpoint in output_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def finished_log(output_dir: Path, run: dict) -> list[dict] | None:
    """The log of a run that has ended; None if there is none or it can be resumed."""
    if not (output_dir / "run.json").is_file():
        return None
    found = json.loads((output_dir / "run.json").read_text())
    if found != run:
        changed = sorted(key for key in found.keys() | run.keys() if found.get(key) != run.get(key))
        raise ValueError(
            f"expected {output_dir} to be new or a run of the same arguments, found one of other "
            f"{', '.join(changed)}; choose another output_dir"
        )
    log = output_dir / LOG_FILE
    return json.loads(log.read_text()) if log.is_file() else None
