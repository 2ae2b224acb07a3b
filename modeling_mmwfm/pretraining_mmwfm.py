"""Masked wireless modeling (Algorithm 1): every optimiser step takes one mini-batch of each source of data.

The paper has a source for each input family, "iq" and "image"; "csi" and "narrowband" (IQ) may join them.
"""

import contextlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    ProjectConfiguration,
    set_seed,
)
from datasets import Dataset as RowDataset
from datasets import IterableDataset as RowStream
from tqdm.auto import tqdm
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from .compiling_mmwfm import compile_if_possible
from .data_collator_mmwfm import MMWFMDataCollator
from .figures_mmwfm import plot_losses
from .graph_replay_mmwfm import replay_if_possible
from .mask_noise_mmwfm import add_noise, count_tokens, seeded_noise, takes_noise
from .precision_mmwfm import PRECISION, check_precision, settle_precision, use_cpu
from .processing_mmwfm import MMWFMProcessor, check_iq_views
from .run_folder_mmwfm import RUN_FILE, begin_run, finish_run, finished_log, latest_checkpoint, save_checkpoint
from .step_batches_mmwfm import (
    FiniteCheck,
    StepBatches,
    StreamBatches,
    loader_of,
    read_augmentations,
    sources_of,
    step_seed,
)
from .tracking_mmwfm import TRACKERS, Speed, check_trackers, draw_reconstructions, start_trackers


@dataclass
class PretrainingArguments:
    """How to pretrain; the defaults are the paper's recipe."""

    output_dir: str = field(metadata={"help": "folder of the model, its checkpoints and figures"})
    num_train_epochs: float = field(default=800, metadata={"help": "passes over the largest source"})
    max_steps: int | None = field(
        default=None,
        metadata={"help": "steps of the run whatever the epochs; of streams an epoch is max_steps / num_train_epochs"},
    )
    warmup_epochs: float = field(default=40, metadata={"help": "linear warm-up, then cosine to 0"})
    batch_size: int = field(default=256, metadata={"help": "samples of each source in a step, over all processes"})
    base_learning_rate: float = field(default=1e-3, metadata={"help": "for 256 samples; scaled with batch_size"})
    weight_decay: float = field(default=0.05, metadata={"help": "of matrices; vectors are not decayed"})
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    max_grad_norm: float | None = field(default=None, metadata={"help": "clip the norm of the summed gradients"})
    carrier_shift: float = field(default=0.0, metadata={"help": "random carrier shift, share of the sampling rate"})
    iq_views: list[str] = field(
        default_factory=lambda: ["iq"],
        metadata={"help": "what is made of IQ: iq, spectrogram or both, which are then one joint input"},
    )
    augmentations: str | None = field(
        default=None,
        metadata={
            "help": "JSON, source -> fields of `Augmentations`; with `contrastive_weight` in the model's configuration "
            "two views drawn by them are compared"
        },
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "rows among which streams are shuffled"})
    mixed_precision: str = field(default="auto", metadata=PRECISION)
    torch_compile: bool = field(default=False, metadata={"help": "where a compiler works; once for each input size"})
    cuda_graphs: bool = field(
        default=False, metadata={"help": "record steps and replay them, for small models on a GPU"}
    )
    num_workers: int = field(default=0, metadata={"help": "processes that prepare batches of each source"})
    logging_steps: int = 10
    eval_epochs: float = field(default=1, metadata={"help": "epochs between validations and figures"})
    save_epochs: float = field(default=20, metadata={"help": "epochs between checkpoints"})
    save_total_limit: int = field(default=2, metadata={"help": "checkpoints kept"})
    report_to: list[str] = field(default_factory=list, metadata={"help": f"{' and '.join(TRACKERS)}, or none"})
    seed: int = 0

    def __post_init__(self):
        positive = (
            "num_train_epochs",
            "max_steps",
            "batch_size",
            "max_grad_norm",
            "logging_steps",
            "save_total_limit",
        )
        for name in positive:
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"`{name}`: expected more than 0, found {getattr(self, name)}")
        check_iq_views(self.iq_views)
        check_precision(self.mixed_precision)
        read_augmentations(self.augmentations)
        self.report_to = [name for name in self.report_to if name != "none"]
        check_trackers(self.report_to)


class Progress:
    """What a checkpoint holds beside model, optimiser and schedule."""

    def __init__(self, sources: list[str], device: torch.device):
        self.step, self.log = 0, []
        self.sums = torch.zeros(len(sources), device=device)  # of losses since they were last logged

    def state_dict(self):
        return {"step": self.step, "log": json.dumps(self.log), "sums": self.sums.tolist()}

    def load_state_dict(self, state):
        self.step, self.log = state["step"], json.loads(state["log"])
        self.sums = self.sums.new_tensor(state["sums"])


def make_accelerator(arguments: PretrainingArguments, find_unused_parameters: bool) -> Accelerator:
    if AcceleratorState._shared_state.get("_mixed_precision") != arguments.mixed_precision:
        AcceleratorState._reset_state()  # of an earlier run in this process
    accelerator = Accelerator(
        cpu=use_cpu(),
        mixed_precision=arguments.mixed_precision,
        step_scheduler_with_optimizer=False,
        log_with=arguments.report_to or None,
        project_config=ProjectConfiguration(logging_dir=f"{arguments.output_dir}/logs"),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters),
            AutocastKwargs(cache_enabled=not arguments.cuda_graphs),  # see `ReplayedLoss`
        ],
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ValueError("expected `fsdp_version: 2` in the launch configuration, found 1")
        plugin = accelerator.state.fsdp_plugin
        if plugin.mixed_precision_policy is not None:
            # Noise, gradients' sums and losses keep their digits.
            plugin.mixed_precision_policy = replace(
                plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False
            )
    return accelerator


def count_steps(rows: dict[str, RowDataset | RowStream], arguments: PretrainingArguments) -> tuple[float, int]:
    """Steps of an epoch and of the run."""
    if any(isinstance(dataset, RowStream) for dataset in rows.values()):
        if arguments.max_steps is None:
            raise ValueError("`max_steps`: expected the number of steps, which streams do not tell, found none")
        return arguments.max_steps / arguments.num_train_epochs, arguments.max_steps
    largest = max(map(len, rows.values()))
    steps_per_epoch = max(1, largest // min(arguments.batch_size, largest))
    return steps_per_epoch, arguments.max_steps or math.ceil(arguments.num_train_epochs * steps_per_epoch)


def split_decay(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups: matrices with, vectors (norms, biases, tokens) without weight decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.squeeze().ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.squeeze().ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def validation_losses(accelerator: Accelerator, model, rows: dict, collators, batch_size: int) -> dict[str, float]:
    """Loss of every source over its validation rows, under random draws that are always the same.

    Processes share the rows of each batch, and all of them take part in each: a sharded model needs all.
    """
    rank, world_size, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    was_training = model.training
    model.eval()
    losses = {}
    for source, dataset in rows.items():
        totals = torch.zeros(2, device=device)
        for number, columns in enumerate(dataset.iter(batch_size)):
            size = len(next(iter(columns.values())))
            own = slice(rank, None, world_size) if rank < size else slice(1)
            count = len(range(size)[own]) if rank < size else 0
            batch = collators[source]({name: values[own] for name, values in columns.items()})
            if takes_noise(model):
                add_noise(batch, model.config, seeded_noise(size, number * batch_size, own))
            batch = {name: value.to(device) for name, value in batch.items()}
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), accelerator.autocast():
                torch.manual_seed(step_seed(number, rank))
                totals += torch.stack([model(**batch).loss.float() * count, totals.new_tensor(count)])
        total, count = accelerator.reduce(totals, "sum").tolist()
        losses[f"validation_{source}_loss"] = total / count
    model.train(was_training)
    return losses


def pretrain(
    model: PreTrainedModel,
    processor: MMWFMProcessor,
    train_rows: dict[str, RowDataset | RowStream],
    validation_rows: dict[str, RowDataset | RowStream],
    arguments: PretrainingArguments,
    provenance: dict | None = None,
    csi_processor: MMWFMProcessor | None = None,
) -> list[dict]:
    """Pretrain, save and draw; resumes from the newest checkpoint and does nothing if the run has ended.

    Any number of processes gives the same mini-batches and masks (streams: the same number), and to rounding the same
    weights; augmentations are drawn by each process for its rows, and a loss that compares the samples of a batch with each
    other (InfoNCE) sees those of its process.

    Args:
        model: its `forward(**batch)` gives `.loss`.
        train_rows, validation_rows: by source ("image", "csi", "iq", "narrowband"), in NumPy format.
        provenance: what identifies the run beside `arguments` (data, initial weights); a run under other arguments is
            not resumed.
        csi_processor: of the source "csi", whose views differ from those of spectrograms; `processor` if not given.

    Returns:
        the log, a row for each time something was measured.

    Raises:
        ValueError: `output_dir` holds a run of other arguments, the model lacks the family of a source, or a loss is not
            finite.
    """
    output_dir = Path(arguments.output_dir)
    arguments = settle_precision(arguments, output_dir / RUN_FILE)
    if (log := finished_log(arguments, provenance)) is not None:
        return log
    sources = sources_of(model, train_rows)
    steps_per_epoch, num_steps = count_steps(train_rows, arguments)
    # Each family leaves the other's projections and head without gradient.
    accelerator = make_accelerator(arguments, len(getattr(model.config, "modalities", sources)) > 1)
    begin_run(accelerator, arguments, provenance)

    set_seed(arguments.seed)
    augmentations = read_augmentations(arguments.augmentations)
    collators, batches = {}, {}
    for number, source in enumerate(sources):
        collators[source] = MMWFMDataCollator(
            csi_processor or processor if source == "csi" else processor,
            arguments.carrier_shift,
            views=arguments.iq_views,
            augmentations=augmentations.get(source),
            second_view=source in augmentations and bool(getattr(model.config, "contrastive_weight", 0)),
        )
        streamed = isinstance(train_rows[source], RowStream)
        batches[source] = (StreamBatches if streamed else StepBatches)(
            train_rows[source],
            collators[source],
            arguments.batch_size,
            num_steps,
            key=(arguments.seed, number),
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            noise_config=model.config if takes_noise(model) else None,
            **({"buffer_size": arguments.shuffle_buffer} if streamed else {}),
        )
    blank = type(model), model.config
    optimizer = torch.optim.AdamW(
        split_decay(model, arguments.weight_decay),
        lr=arguments.base_learning_rate * arguments.batch_size / 256,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        fused=True,
    )
    scheduler = get_cosine_schedule_with_warmup(optimizer, int(arguments.warmup_epochs * steps_per_epoch), num_steps)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    step_model = compile_if_possible(model, accelerator.device) if arguments.torch_compile else model
    replay = replay_if_possible(step_model, accelerator) if arguments.cuda_graphs else None
    progress = Progress(sources, accelerator.device)
    accelerator.register_for_checkpointing(progress)
    if (checkpoint := latest_checkpoint(output_dir)) is not None:
        accelerator.load_state(str(checkpoint))
    start_trackers(accelerator, output_dir, progress.step)
    # While a step is recorded no other thread may use the GPU, and those that pin memory would.
    pin_memory = accelerator.device.type == "cuda" and replay is None
    loaders = {
        source: loader_of(own, progress.step, arguments.num_workers, pin_memory) for source, own in batches.items()
    }
    check = FiniteCheck(accelerator, arguments.seed)
    every = {name: max(1, int(getattr(arguments, f"{name}_epochs") * steps_per_epoch)) for name in ("eval", "save")}
    bar = tqdm(
        total=num_steps, initial=progress.step, desc="pretraining", disable=not accelerator.is_local_main_process
    )
    speed = Speed(progress.step, num_steps)
    model.train()
    for step in range(progress.step, num_steps):
        number, last = step + 1, step + 1 == num_steps
        logs = number % arguments.logging_steps == 0 or last
        evaluates = number % every["eval"] == 0 or last
        saves = number % every["save"] == 0 and not last
        # What a model draws by itself; masks are drawn with the batches.
        torch.manual_seed(step_seed(arguments.seed, step, accelerator.process_index))
        losses, tokens = {}, 0
        for source in sources:
            batch = next(loaders[source])
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
            if takes_noise(model):
                tokens += batches[source].batch_size * sum(count_tokens(blank[1], batch).values())
            # Gradients of the sources are summed; processes exchange them once, with the last source. Not so where
            # the model is sharded: FSDP2 cannot wait for parts that have not been used yet.
            waits = source != sources[-1] and accelerator.distributed_type != DistributedType.FSDP
            with accelerator.no_sync(model) if waits else contextlib.nullcontext(), accelerator.autocast():
                loss = (replay(source, batch) if replay else step_model(**batch).loss) * batches[source].weight
                accelerator.backward(loss)
            losses[source] = loss.detach().float()
            del loss  # its graph would keep what the next source's recording must begin with afresh
        gradient_norm = accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm or math.inf)
        if hasattr(gradient_norm, "full_tensor"):  # of a sharded model
            gradient_norm = gradient_norm.full_tensor()
        check.note(step, losses, gradient_norm)
        if accelerator.device.type == "cpu" or logs or evaluates or saves:
            check.look(batches, output_dir)
        learning_rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        progress.sums += torch.stack(list(losses.values()))
        progress.step = number
        bar.update()

        row = {"step": number, "epoch": number / steps_per_epoch}
        if logs:
            means = accelerator.reduce(progress.sums / (step % arguments.logging_steps + 1), "mean").tolist()
            progress.sums.zero_()
            row |= {f"{source}_loss": mean for source, mean in zip(sources, means)}
            row |= {"gradient_norm": float(gradient_norm), "learning_rate": learning_rate}
            row |= speed.look(number, sum(own.batch_size for own in batches.values()), tokens)
            bar.set_postfix({name: f"{value:.4g}" for name, value in row.items() if name.endswith(("loss", "_s"))})
        if evaluates:
            bare = accelerator.unwrap_model(model)
            row |= validation_losses(accelerator, bare, validation_rows, collators, arguments.batch_size)
            draw_reconstructions(accelerator, bare, validation_rows or train_rows, collators, output_dir, number)
        if len(row) > 2:
            progress.log.append(row)
            accelerator.log({name: value for name, value in row.items() if name != "step"}, step=number)
        if evaluates and accelerator.is_main_process:
            plot_losses(progress.log, output_dir / "losses.png")
        if saves:
            save_checkpoint(accelerator, output_dir, number, arguments.save_total_limit)
        if evaluates or saves:
            speed.skip(number)
    bar.close()
    finish_run(accelerator, model, blank, processor, progress.log, output_dir)
    return progress.log
