"""Pretrain by masked wireless modeling.

    python training_scripts/pretrain.py configuration/recipes/pretrain-small-paper.yaml --output_dir runs/small

Keys of the recipe are the fields below and those of `PretrainingArguments`; each can be given on the command line.
The same command again resumes.
"""

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoModelForPreTraining

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `processing` is not an installed package

from modeling_mmwfm import MMWFMFeatureExtractor, MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments, finished_log, pretrain, use_cpu
from modeling_mmwfm.recipes_mmwfm import run_script
from processing.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"iq": "pretrain-iq", "image": "pretrain-spectrogram"}


@dataclass
class DataArguments:
    model: str = field(metadata={"help": "preset folder (new weights) or checkpoint to continue from"})
    iq_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with `iq`"})
    image_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with `image`"})
    simulated_iq_samples: int = field(
        default=0, metadata={"help": "simulate `pretrain-iq` instead, for this run alone"}
    )
    simulated_image_samples: int = field(default=0, metadata={"help": "the same of `pretrain-spectrogram`"})
    streaming: bool = field(default=False, metadata={"help": "read rows as they come; needs `max_steps`"})
    statistics_samples: int = field(default=10_000, metadata={"help": "first rows of a stream that are measured"})
    keep_in_memory: bool = field(default=False, metadata={"help": "rows, instead of in a memory-mapped file"})
    normalization: str = field(default="dataset", metadata={"choices": ["dataset", "sample", "none"]})
    image_height: int = 224
    image_width: int = 224

    def __post_init__(self):
        for family in TASKS:
            if getattr(self, f"simulated_{family}_samples") and getattr(self, f"{family}_dataset"):
                raise ValueError(f"expected `{family}_dataset` or `simulated_{family}_samples`, found both")


def open_splits(data: DataArguments, folder: Path, seed: int) -> dict[str, dict]:
    """Splits by family; what is simulated goes to `folder`."""
    splits = {}
    for family, task in TASKS.items():
        name, cache_dir = getattr(data, f"{family}_dataset"), None
        if samples := getattr(data, f"simulated_{family}_samples"):
            name = str(simulate(task, folder / task, samples, seed, num_proc=os.cpu_count()))
            cache_dir = str(folder / "cache")
        if name is not None:
            splits[family] = load_splits(name, data.streaming, data.keep_in_memory, cache_dir)
    if not splits:
        raise ValueError("expected `iq_dataset`, `image_dataset`, simulated samples or several, found none")
    return splits


def main(data: DataArguments, arguments: PretrainingArguments):
    provenance, simulated = dict(vars(data)), Path(arguments.output_dir) / "data"
    for family, task in TASKS.items():
        if samples := provenance[f"simulated_{family}_samples"]:
            provenance[f"{family}_dataset"] = f"{task}, {samples:,} samples simulated with seed {arguments.seed}"
    processes = PartialState(cpu=use_cpu())
    if finished_log(arguments, provenance) is None:
        run(data, arguments, provenance, simulated, processes)
    if processes.is_main_process:
        for pattern in (*TASKS.values(), *(f".{task}-*" for task in TASKS.values()), "cache"):
            for folder in simulated.glob(pattern):
                shutil.rmtree(folder)
        if simulated.is_dir() and not any(simulated.iterdir()):
            simulated.rmdir()
        print(f"{arguments.output_dir} is complete")
    processes.destroy_process_group()


def run(data, arguments, provenance, simulated, processes):
    # data
    with processes.main_process_first():
        splits = open_splits(data, simulated, arguments.seed)
    train = {family: parts["train"] for family, parts in splits.items()}
    validation = {family: parts["validation"] for family, parts in splits.items() if "validation" in parts}

    # processor
    processor = MMWFMProcessor(
        MMWFMFeatureExtractor(normalization=data.normalization),
        MMWFMImageProcessor(
            size={"height": data.image_height, "width": data.image_width}, normalization=data.normalization
        ),
    )
    for rows in train.values():
        processor.fit(rows.take(data.statistics_samples) if data.streaming else rows)

    # model
    torch.manual_seed(arguments.seed)
    name = data.model if Path(data.model).exists() or not (ROOT / data.model).exists() else str(ROOT / data.model)
    config = AutoConfig.from_pretrained(name)
    if config.architectures:
        model = AutoModelForPreTraining.from_pretrained(name, config=config, dtype=torch.float32)
    else:
        model = AutoModelForPreTraining.from_config(config)

    # train, save, draw
    pretrain(model, processor, train, validation, arguments, provenance)


if __name__ == "__main__":
    run_script(main, DataArguments, PretrainingArguments)
