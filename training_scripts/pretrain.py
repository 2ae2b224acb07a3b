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

from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.inputs_mmwfm import fit_processors
from modeling_mmwfm.precision_mmwfm import settle_precision, use_cpu
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments, pretrain
from modeling_mmwfm.recipes_mmwfm import read_json, run_script
from modeling_mmwfm.run_folder_mmwfm import RUN_FILE, finished_log
from processing.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
TASKS = {
    "image": "pretrain-spectrogram",
    "csi": "pretrain-csi",
    "iq": "pretrain-iq",
    "narrowband": "pretrain-narrowband",
}


@dataclass
class DataArguments:
    model: str = field(metadata={"help": "preset folder (new weights) or checkpoint to continue from"})
    model_options: str | None = field(
        default=None, metadata={"help": "JSON, fields of a preset's configuration that this run changes"}
    )
    iq_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with `iq`"})
    image_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with `image`"})
    csi_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with CSI `image`s"})
    narrowband_dataset: str | None = field(default=None, metadata={"help": "a second set with `iq`, of other sizes"})
    simulated_iq_samples: int = field(
        default=0, metadata={"help": "simulate `pretrain-iq` instead, for this run alone"}
    )
    simulated_image_samples: int = field(default=0, metadata={"help": "the same of `pretrain-spectrogram`"})
    simulated_csi_samples: int = field(default=0, metadata={"help": "the same of `pretrain-csi`"})
    simulated_narrowband_samples: int = field(default=0, metadata={"help": "the same of `pretrain-narrowband`"})
    streaming: bool = field(default=False, metadata={"help": "read rows as they come; needs `max_steps`"})
    statistics_samples: int = field(
        default=4_000, metadata={"help": "rows of each source that the statistics are measured on"}
    )
    keep_in_memory: bool = field(default=False, metadata={"help": "rows, instead of in a memory-mapped file"})
    normalization: str = field(default="dataset", metadata={"choices": ["dataset", "sample", "none"]})
    image_height: int = 224
    image_width: int = 224
    center_carrier: bool = field(default=False, metadata={"help": "move the carrier of IQ to 0 Hz"})
    spectrogram_fft: int = field(default=1024, metadata={"help": "samples of a spectrogram's frame, see `iq_views`"})
    spectrogram_hop: int = field(default=512, metadata={"help": "samples between frames"})
    center_peak: bool = field(default=False, metadata={"help": "spectrogram rows count from the strongest one"})
    # Departures from the view of `processor(csi=...)`, which the run saves with its processor.
    csi_doppler_groups: int | None = field(
        default=None, metadata={"help": "groups of subcarriers of the Doppler view"}
    )
    csi_normalization: str | None = field(default=None, metadata={"choices": ["dataset", "sample", "none"]})
    csi_width: int | None = field(default=None, metadata={"help": "frames of the Doppler view"})
    csi_remove_time_mean: bool | None = field(default=None, metadata={"help": "take the static channel out"})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa (default, in blocks where a CPU trains in bfloat16), eager, ..."}
    )

    def __post_init__(self):
        read_json(self.model_options or "{}", "model_options")
        for source in TASKS:
            if getattr(self, f"simulated_{source}_samples") and getattr(self, f"{source}_dataset"):
                raise ValueError(f"expected `{source}_dataset` or `simulated_{source}_samples`, found both")


def open_splits(data: DataArguments, folder: Path, seed: int) -> dict[str, dict]:
    """Splits by source; what is simulated goes to `folder`."""
    splits = {}
    for source, task in TASKS.items():
        name, cache_dir = getattr(data, f"{source}_dataset"), None
        if samples := getattr(data, f"simulated_{source}_samples"):
            name = str(simulate(task, folder / task, samples, seed, num_proc=os.cpu_count()))
            cache_dir = str(folder / "cache")
        if name is not None:
            splits[source] = load_splits(name, data.streaming, data.keep_in_memory, cache_dir)
    if not splits:
        known = ", ".join(f"`{source}_dataset`" for source in TASKS)
        raise ValueError(f"expected {known}, simulated samples or several, found none")
    return splits


def main(data: DataArguments, arguments: PretrainingArguments):
    provenance, simulated = dict(vars(data)), Path(arguments.output_dir) / "data"
    for source, task in TASKS.items():
        if samples := provenance[f"simulated_{source}_samples"]:
            provenance[f"{source}_dataset"] = f"{task}, {samples:,} samples simulated with seed {arguments.seed}"
    processes = PartialState(cpu=use_cpu())
    arguments = settle_precision(arguments, Path(arguments.output_dir) / RUN_FILE)
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
    train = {source: parts["train"] for source, parts in splits.items()}
    validation = {source: parts["validation"] for source, parts in splits.items() if "validation" in parts}

    # processors
    processor, csi_processor = fit_processors(data, train, arguments.iq_views)

    # model
    torch.manual_seed(arguments.seed)
    name = data.model if Path(data.model).exists() or not (ROOT / data.model).exists() else str(ROOT / data.model)
    config = AutoConfig.from_pretrained(name, **read_json(data.model_options or "{}", "model_options"))
    attention = {"attn_implementation": data.attn_implementation} if data.attn_implementation else {}
    if config.architectures:
        model = AutoModelForPreTraining.from_pretrained(name, config=config, dtype=torch.float32, **attention)
    else:
        model = AutoModelForPreTraining.from_config(config, **attention)

    # train, save, draw
    pretrain(model, processor, train, validation, arguments, provenance, csi_processor)


if __name__ == "__main__":
    run_script(main, DataArguments, PretrainingArguments)
