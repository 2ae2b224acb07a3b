"""Adapting a pretrained encoder to a task: which parameters train, how, and loading the result."""

import copy
import json
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from .cards_mmwfm import write_task_card
from .data_collator_mmwfm import FAMILIES, INPUT_COLUMNS, MMWFMDataCollator, RowsWithDraws, kind_of
from .evaluation_mmwfm import RESULTS_FILE, evaluate_task, score
from .files_mmwfm import write_json
from .fitted_heads_mmwfm import columns_of, features_of, fit_head, learn_novelty, set_head
from .frozen_features_mmwfm import Head, as_features, trains_head_alone
from .precision_mmwfm import PRECISION, check_precision, settle_precision, use_cpu
from .processing_mmwfm import MMWFMProcessor, check_iq_views
from .regimes_mmwfm import PARTS, REGIMES, apply_regime, decayed_groups, head_as_adapter
from .run_folder_mmwfm import RUN_FILE
from .targets_mmwfm import draw_labels, target_settings


@dataclass
class FinetuningArguments:
    """How to adapt; the defaults are the paper's benchmark."""

    output_dir: str = field(metadata={"help": "folder of the adapted model or adapter and its results"})
    regime: str = field(default="lora", metadata={"help": REGIMES})
    num_train_epochs: int = 100
    warmup_epochs: float = 5
    batch_size: int = 256
    base_learning_rate: float = field(default=1e-3, metadata={"help": "for 256 samples; scaled with batch_size"})
    min_learning_rate: float = 1e-6
    weight_decay: float = field(default=0.05, metadata={"help": "of matrices; vectors are not decayed"})
    layer_decay: float = field(
        default=0.75, metadata={"help": "learning rate factor from each block to the one before"}
    )
    label_smoothing: float = 0.1
    lora_rank: int = 32
    lora_alpha: float = 64
    pooling: str | None = field(default=None, metadata={"help": "cls, mean or mean_std; default: the checkpoint's"})
    carrier_shift: float = field(
        default=0.0,
        metadata={
            "help": "random carrier shift, share of the sampling rate; another in each epoch where more trains than the head"
        },
    )
    iq_views: list[str] | None = field(
        default=None,
        metadata={
            "help": "what is made of IQ: iq, spectrogram or both, which are then one joint input; default: the processor's"
        },
    )
    mixed_precision: str = field(default="auto", metadata=PRECISION)
    random_encoder: bool = field(
        default=False,
        metadata={
            "help": "fresh weights of the checkpoint's configuration, adapted by the same regime: the control that every "
            "pretrained encoder has to beat"
        },
    )
    fit_head_first: bool = field(
        default=False,
        metadata={
            "help": "begin with a head that is fitted to the frozen features; where few steps train a new one badly"
        },
    )
    selection: str = field(
        default="validation",
        metadata={
            "choices": ["validation", "last"],
            "help": "which weights stay: of the epoch that is best on the validation split, or of the last one, which "
            "needs no labels beside the budget",
        },
    )
    samples_per_class: int | None = field(
        default=None,
        metadata={"help": "label budget: training rows of each class, drawn by seed; of a regression, in all"},
    )
    min_steps: int = field(
        default=0, metadata={"help": "train for at least this many steps: epochs are raised for small label budgets"}
    )
    results_only: bool = field(
        default=False, metadata={"help": "keep results and predictions, no weights, figures or card"}
    )
    seed: int = 0

    def __post_init__(self):
        if self.iq_views is not None:
            check_iq_views(self.iq_views)
        check_precision(self.mixed_precision)


class KeepBest(TrainerCallback):
    """Holds what trains, as it was at the best evaluation, in memory instead of checkpoints on disk."""

    def __init__(self):
        self.value, self.state = None, {}

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        value = metrics[f"eval_{args.metric_for_best_model}"] * (1 if args.greater_is_better else -1)
        if self.value is None or value > self.value:
            trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
            self.value = value
            self.state = {name: tensor.detach().clone() for name, tensor in [*trained, *model.named_buffers()]}

    def restore(self, model: torch.nn.Module):
        model.load_state_dict(self.state, strict=False)


def load_adapted(folder: str | Path) -> PreTrainedModel | PeftModel:
    """A fine-tuned model, or an adapter on the base it names; with the head's configuration from the folder.

    Raises:
        ValueError: the adapter does not fit its base.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()
    base_name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    config, base_config = AutoConfig.from_pretrained(folder), AutoConfig.from_pretrained(base_name)
    for key in ("model_type", *PARTS[config.model_type].sizes):
        if getattr(config, key) != getattr(base_config, key):
            raise ValueError(
                f"expected a base model with `{key}` {getattr(config, key)}, which the adapter {folder} was trained "
                f"on, found {getattr(base_config, key)} in {base_name}"
            )
    base = AutoModelForSequenceClassification.from_pretrained(base_name, config=config)
    return PeftModel.from_pretrained(base, folder).eval()


def task_config(
    base: str, train: Dataset, pooling: str | None, iq_views: list[str]
) -> tuple[str, list[str], PreTrainedConfig]:
    """Target column and input families of a task, and the checkpoint's configuration with the task's head.

    Raises:
        ValueError: the checkpoint is no model that can be adapted, or has no part for a family, or no such pooling; views
            of IQ other than itself for rows that have images already.
    """
    column, settings = target_settings(train)
    families = [FAMILIES[column] for column in INPUT_COLUMNS if column in train.column_names]
    if "iq" in families and list(iq_views) != ["iq"]:
        if "image" in families:
            raise ValueError(
                f"`iq_views`: expected ['iq'] for rows that have images or CSI, too, found {list(iq_views)}"
            )
        families = ["iq", "image"] if "iq" in iq_views else ["image"]
    config = AutoConfig.from_pretrained(base, **settings)
    if config.model_type not in PARTS:
        raise ValueError(f"{base}: expected a model of type {' or '.join(PARTS)}, found {config.model_type}")
    if absent := set(families) - set(config.modalities):
        raise ValueError(f"{base}: expected input of the modalities {list(config.modalities)}, found {sorted(absent)}")
    channels = len(train[0]["image"]) if "image" in train.column_names else 1  # a spectrogram has one, CSI is merged
    if "image" in families and channels != config.num_channels:
        config.input_channels = channels
    if pooling:
        if not hasattr(config, "pooling"):
            raise ValueError(f"`pooling`: expected none for a model of type {config.model_type}, found {pooling!r}")
        config.pooling = pooling
    return column, families, config


def make_model(base: str, config: PreTrainedConfig, families, arguments) -> PreTrainedModel | PeftModel:
    """Pretrained or fresh encoder with a new head, ready to be trained by the regime."""
    torch.manual_seed(arguments.seed)
    if arguments.regime == "scratch" or arguments.random_encoder:
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    return apply_regime(model, arguments.regime, families, arguments.lora_rank, arguments.lora_alpha)


def make_trainer(model, trained, rows: dict, collator, arguments: FinetuningArguments) -> Trainer:
    """Evaluates as often as there are epochs and ends with the weights of the best evaluation.

    Args:
        trained: the model, or its head if the rows are features.
        rows: "train" and "validation", of which `collator` makes batches.
    """
    regression = model.config.problem_type == "regression"
    learning_rate = arguments.base_learning_rate * arguments.batch_size / 256
    layer_decay = 1.0 if arguments.regime == "scratch" else arguments.layer_decay
    groups = decayed_groups(model, learning_rate, layer_decay, arguments.weight_decay)
    steps = max(arguments.num_train_epochs * math.ceil(len(rows["train"]) / arguments.batch_size), arguments.min_steps)
    eval_steps = math.ceil(steps / arguments.num_train_epochs)
    selects = arguments.selection == "validation"
    settings = TrainingArguments(
        output_dir=str(Path(arguments.output_dir) / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        learning_rate=learning_rate,
        warmup_steps=int(arguments.warmup_epochs / arguments.num_train_epochs * steps),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": arguments.min_learning_rate},
        label_smoothing_factor=0.0 if regression else arguments.label_smoothing,
        eval_strategy="steps" if selects else "no",
        save_strategy="steps" if selects and not arguments.results_only else "no",
        logging_strategy="steps",
        eval_steps=eval_steps,
        save_steps=eval_steps,
        logging_steps=eval_steps,
        save_total_limit=1,
        load_best_model_at_end=selects and not arguments.results_only,
        metric_for_best_model="mean_error_m" if regression else "mean_class_accuracy",
        greater_is_better=not regression,
        label_names=["labels"],
        use_cpu=use_cpu(),  # which Trainer wants to be told for bf16
        bf16=arguments.mixed_precision == "bf16",
        fp16=arguments.mixed_precision == "fp16",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
        seed=arguments.seed,
    )
    settings.mixed_precision = arguments.mixed_precision  # of "no" it would take what `accelerate launch` says
    return Trainer(
        model=trained,
        args=settings,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=collator,
        compute_metrics=lambda prediction: score(prediction.predictions, prediction.label_ids, regression),
        optimizers=(torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True), None),
    )


def train_model(model, trained, rows: dict, collator, arguments: FinetuningArguments):
    """Train by gradient, keep the epoch that is best on the validation split, and write the log."""
    output_dir = Path(arguments.output_dir)
    trainer = make_trainer(model, trained, rows, collator, arguments)
    # Autocast casts the input of each adapter by itself, and what peft had cast before it once more.
    with disable_input_dtype_casting(model, active=arguments.mixed_precision != "no"):
        if arguments.selection == "last":
            trainer.train()
        elif arguments.results_only:
            best = KeepBest()
            trainer.add_callback(best)
            trainer.train()
            best.restore(trained)
        else:
            has_checkpoint = any((output_dir / "checkpoints").glob("checkpoint-*"))
            trainer.train(resume_from_checkpoint=has_checkpoint or None)
    write_json(output_dir / "training_log.json", trainer.state.log_history)


def finetune(
    base: str,
    processor: MMWFMProcessor,
    splits: dict[str, Dataset],
    arguments: FinetuningArguments,
    provenance: dict | None = None,
) -> dict:
    """Adapt, keep the epoch that is best on the validation split, save, and use the test split once.

    Args:
        base: checkpoint folder or Hub name ("scratch" takes its configuration alone).
        splits: "train", "validation" and, if there is one, "test", in NumPy format.
        provenance: what identifies the run beside `arguments`.

    Returns:
        results on the validation and test splits.
    """
    output_dir = Path(arguments.output_dir)
    arguments = settle_precision(arguments, output_dir / RUN_FILE)
    run = json.loads(json.dumps({"base": str(base), **vars(arguments), **(provenance or {})}))
    run.pop("output_dir")
    if (output_dir / RUN_FILE).is_file():
        if (found := json.loads((output_dir / RUN_FILE).read_text())) != run:
            changed = sorted(key for key in found.keys() | run.keys() if found.get(key) != run.get(key))
            raise ValueError(f"expected {output_dir} to be new or a run of the same arguments, other: {changed}")
        if (output_dir / RESULTS_FILE).is_file():
            return json.loads((output_dir / RESULTS_FILE).read_text())
    if arguments.num_train_epochs < 1:
        raise ValueError(f"`num_train_epochs`: expected at least 1, found {arguments.num_train_epochs}")
    for split in ("train", "validation"):
        if split not in splits:
            raise ValueError(f"expected splits train and validation, found {sorted(splits)}")
    train = draw_labels(splits["train"], arguments.samples_per_class, arguments.seed)
    processor = copy.deepcopy(processor)  # the caller's stays as it is
    processor.iq_views, processor.kind = arguments.iq_views or processor.iq_views, kind_of(train.column_names)
    column, families, config = task_config(base, train, arguments.pooling, processor.iq_views)
    model = make_model(base, config, families, arguments)

    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / RUN_FILE, run)
    collator = MMWFMDataCollator(processor, arguments.carrier_shift, column)
    rows = {"train": train, **{split: splits[split] for split in ("validation", "test") if split in splits}}
    trained = model
    if trains_head_alone(model):  # on the same inputs in every epoch: carrier shifts follow from the row
        rows, collator = as_features(model, rows, collator, arguments.batch_size), dict
        trained = Head(model)
    elif arguments.carrier_shift and "iq" in train.column_names:
        rows["train"] = RowsWithDraws(train, arguments.seed)
    began = time.perf_counter()
    if arguments.regime == "probe" or (arguments.fit_head_first and arguments.regime != "scratch"):
        features = (
            rows if trained is not model else features_of(model, {"train": train}, collator, arguments.batch_size)
        )
        set_head(model, fit_head(*columns_of(features["train"], train), config.num_labels))
    if arguments.regime != "probe":
        train_model(model, trained, rows, collator, arguments)
    seconds = time.perf_counter() - began
    results = {
        split: evaluate_task(
            trained, rows[split], collator, output_dir, split, arguments.batch_size, not arguments.results_only
        )
        for split in ("validation", "test")
        if split in rows
    }
    results["trained_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    results["trained_rows"], results["seconds"] = len(train), seconds
    if not arguments.results_only:
        learn_novelty(model, rows, train, collator, arguments.batch_size, arguments.regime == "probe")
        if arguments.regime == "probe":
            model = head_as_adapter(model)
        save_adapted(model, base, arguments.random_encoder, output_dir)
        processor.save_pretrained(output_dir)
        write_task_card(output_dir, results, run)
    write_json(output_dir / RESULTS_FILE, results)
    shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)
    return results


def save_adapted(model: PreTrainedModel | PeftModel, base: str, random_encoder: bool, output_dir: Path):
    """A model as it is, an adapter with the name of its base and the configuration of its head."""
    if isinstance(model, PeftModel) and random_encoder:
        model = model.merge_and_unload()  # the base that the adapter would name has other weights
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.config.save_pretrained(output_dir)  # the adapter's own file does not hold labels
    model.save_pretrained(output_dir)
