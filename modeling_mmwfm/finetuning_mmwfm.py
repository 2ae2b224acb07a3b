"""Adapting a pretrained encoder to a task: which parameters train, how, and loading the result."""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from .cards_mmwfm import write_task_card
from .configuration_mmwfm import MMWFMConfig
from .data_collator_mmwfm import MMWFMDataCollator
from .evaluation_mmwfm import evaluate_task, score
from .modeling_mmwfm import MMWFMForSequenceClassification
from .processing_mmwfm import MMWFMProcessor

REGIMES = "lp, ft<k>, lora, strict, full or scratch"
# Modules that adapt a family's input to the encoder; position tables are computed and never train.
INPUT_MODULES = {
    "iq": ("projection", "affine", "positions.antenna_embeddings"),
    "image": ("projection", "affine", "channel_adapter"),
}
RESULTS_FILE = "test_results.json"


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
    pooling: str | None = field(default=None, metadata={"help": "cls or mean; default: the checkpoint's"})
    carrier_shift: float = field(default=0.0, metadata={"help": "random carrier shift, share of the sampling rate"})
    seed: int = 0


def input_modules(model: MMWFMForSequenceClassification, families) -> list[str]:
    """Names of the modules before the encoder that stay trainable for these input families."""
    names = [f"mmwfm.{family}_embeddings.{part}" for family in families for part in INPUT_MODULES[family]]
    modules = dict(model.named_modules())
    return [name for name in names if modules.get(name) is not None]


def apply_regime(
    model: MMWFMForSequenceClassification, regime: str, families, lora_rank: int = 32, lora_alpha: float = 64
) -> MMWFMForSequenceClassification | PeftModel:
    """Set what trains.

    Args:
        regime: "lp" (head, input projections with their affine, antenna vectors), "ft<k>" (and the last k blocks),
            "lora" (and rank-stabilised adapters on query and value of every block), "strict" (head and CLS), "full"
            and "scratch" (everything but the parts of other input families).
        families: input families of the task, "iq", "image" or both.

    Raises:
        ValueError: unknown regime, or more blocks than there are.
    """
    if not re.fullmatch(r"lp|ft\d+|lora|strict|full|scratch", regime):
        raise ValueError(f"`regime`: expected {REGIMES}, found {regime!r}")
    blocks = int(regime[2:]) if regime.startswith("ft") else 0
    if blocks > model.config.num_hidden_layers:
        raise ValueError(f"`regime`: expected at most ft{model.config.num_hidden_layers}, found {regime}")
    inputs = input_modules(model, families)
    if regime == "lora":
        config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha,
            use_rslora=True,
            target_modules=["q_proj", "v_proj"],
            modules_to_save=[*inputs, "classifier"],
        )
        return get_peft_model(model, config)
    everything = regime in ("full", "scratch")
    model.requires_grad_(everything)
    for family in set(INPUT_MODULES) - set(families):
        if (part := model.mmwfm.embeddings_of(family)) is not None:
            part.requires_grad_(False)
    trainable = [model.classifier]
    if regime == "strict":
        model.mmwfm.cls_token.requires_grad_(True)
    else:
        trainable += [model.get_submodule(name) for name in inputs]
        trainable += model.mmwfm.layers[model.config.num_hidden_layers - blocks :]
    for module in trainable:
        module.requires_grad_(True)
    return model


def decayed_groups(model: torch.nn.Module, arguments: FinetuningArguments, num_layers: int) -> list[dict]:
    """Parameter groups: learning rate falls by `layer_decay` from block to block towards the input."""
    learning_rate = arguments.base_learning_rate * arguments.batch_size / 256
    layer_decay = 1.0 if arguments.regime == "scratch" else arguments.layer_decay
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        block = re.search(r"mmwfm\.layers\.(\d+)\.", name)
        depth = int(block[1]) + 1 if block else 0 if "_embeddings." in name or "cls_token" in name else num_layers + 1
        decay = arguments.weight_decay if parameter.squeeze().ndim > 1 else 0.0
        group = groups.setdefault((depth, decay), {"params": [], "weight_decay": decay})
        group["lr"] = learning_rate * layer_decay ** (num_layers + 1 - depth)
        group["params"].append(parameter)
    return list(groups.values())


def target_settings(rows: Dataset) -> tuple[str, dict]:
    """Target column of a task's training rows and the configuration of its head.

    Raises:
        ValueError: no target, or one class only.
    """
    if "position" in rows.column_names:
        positions = np.asarray(rows["position"][:], dtype=np.float64)
        low, high = positions.min(0), positions.max(0)
        return "position", {
            "problem_type": "regression",
            "num_labels": positions.shape[1],
            "label_min": low.tolist(),
            "label_max": high.tolist(),
        }
    if "label" not in rows.column_names:
        raise ValueError(f"expected a column `label` or `position`, found {rows.column_names}")
    names = rows.features["label"].names
    found = np.unique(np.asarray(rows["label"][:]))
    if len(found) < 2:
        raise ValueError(f"expected at least two classes in the training set, found {[names[i] for i in found]}")
    return "label", {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def load_adapted(folder: str | Path) -> MMWFMForSequenceClassification | PeftModel:
    """A fine-tuned model, or an adapter on the base it names; with the head's configuration from the folder.

    Raises:
        ValueError: the adapter does not fit its base.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return MMWFMForSequenceClassification.from_pretrained(folder).eval()
    base_name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    config, base_config = MMWFMConfig.from_pretrained(folder), MMWFMConfig.from_pretrained(base_name)
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "segment_length"):
        if getattr(config, key) != getattr(base_config, key):
            raise ValueError(
                f"expected a base model with `{key}` {getattr(config, key)}, which the adapter {folder} was trained "
                f"on, found {getattr(base_config, key)} in {base_name}"
            )
    base = MMWFMForSequenceClassification.from_pretrained(base_name, config=config)
    return PeftModel.from_pretrained(base, folder).eval()


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
    run = json.loads(json.dumps({"base": str(base), **vars(arguments), **(provenance or {})}))
    run.pop("output_dir")
    if (output_dir / "run.json").is_file():
        if (found := json.loads((output_dir / "run.json").read_text())) != run:
            changed = sorted(key for key in found.keys() | run.keys() if found.get(key) != run.get(key))
            raise ValueError(f"expected {output_dir} to be new or a run of the same arguments, other: {changed}")
        if (output_dir / RESULTS_FILE).is_file():
            return json.loads((output_dir / RESULTS_FILE).read_text())
    for split in ("train", "validation"):
        if split not in splits:
            raise ValueError(f"expected splits train and validation, found {sorted(splits)}")
    train = splits["train"]
    column, head = target_settings(train)
    families = [family for family in ("iq", "image") if family in train.column_names]
    if arguments.pooling:
        head["pooling"] = arguments.pooling
    if "image" in families and (channels := len(train[0]["image"])) != MMWFMConfig.from_pretrained(base).num_channels:
        head["input_channels"] = channels

    torch.manual_seed(arguments.seed)
    config = MMWFMConfig.from_pretrained(base, **head)
    if arguments.regime == "scratch":
        model = MMWFMForSequenceClassification(config)
    else:
        model = MMWFMForSequenceClassification.from_pretrained(base, config=config)
    model = apply_regime(model, arguments.regime, families, arguments.lora_rank, arguments.lora_alpha)

    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "run.json").write_text(json.dumps(run, indent=1))
    regression = column == "position"
    steps_per_epoch = -(-len(train) // arguments.batch_size)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output_dir / "checkpoints"),
            num_train_epochs=arguments.num_train_epochs,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=arguments.batch_size,
            learning_rate=arguments.base_learning_rate * arguments.batch_size / 256,
            warmup_steps=int(arguments.warmup_epochs * steps_per_epoch),
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr": arguments.min_learning_rate},
            label_smoothing_factor=0.0 if regression else arguments.label_smoothing,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="mean_error_m" if regression else "mean_class_accuracy",
            greater_is_better=not regression,
            label_names=["labels"],
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to=[],
            seed=arguments.seed,
        ),
        train_dataset=train,
        eval_dataset=splits["validation"],
        data_collator=MMWFMDataCollator(processor, arguments.carrier_shift, column),
        compute_metrics=lambda prediction: score(prediction.predictions, prediction.label_ids, regression),
        optimizers=(
            torch.optim.AdamW(decayed_groups(model, arguments, config.num_hidden_layers), betas=(0.9, 0.999)),
            None,
        ),
    )
    has_checkpoint = any((output_dir / "checkpoints").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=has_checkpoint or None)
    (output_dir / "training_log.json").write_text(json.dumps(trainer.state.log_history, indent=1))

    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = str(base)
        config.save_pretrained(output_dir)  # the adapter's own file does not hold labels
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    results = {
        split: evaluate_task(model, splits[split], trainer.data_collator, output_dir, split, arguments.batch_size)
        for split in ("validation", "test")
        if split in splits
    }
    results["trained_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    write_task_card(output_dir, results, run)
    unfinished = output_dir / f".{RESULTS_FILE}"
    unfinished.write_text(json.dumps(results, indent=1))
    unfinished.rename(output_dir / RESULTS_FILE)
    shutil.rmtree(output_dir / "checkpoints")
    return results
