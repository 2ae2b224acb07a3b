"""The main job on measured sets: pretrain on unlabelled training recordings, adapt in four regimes, three seeds.

    python -m tests.measured_study --data ../shared/data --output runs/measured

Writes `results.md` and `results.json` in the output folder; interrupted, the same command goes on where it was. Test
rows are recordings (ISM-433) or a user (CSI-HAR) that training never saw; IQ has unit power and a random carrier shift.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from modeling_mmwfm import MMWFMConfig
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments
from processing.recording_folder import build_recording_folder
from tests.measured_sets import export_csi_har, export_ism433
from training_scripts import finetune, pretrain

REGIMES = ("lp", "ft2", "lora", "scratch")
SEEDS = (0, 1, 2)
PRESET = "configuration/models/tiny"
SEGMENT_LENGTH = 64  # 256 us at 250 kS/s, near the symbol time of these devices
IQ_SETTINGS = {"carrier_shift": 0.5}
# set -> window, family, its pretraining run and fine-tuning epochs
SETS = {
    "ism433-4096": (4096, "iq", "pretrain-ism433", 40),
    "ism433-32768": (32768, "iq", "pretrain-ism433", 25),
    "csi-har": (None, "image", "pretrain-csi-har", 60),
}


def build_sets(data: Path, output: Path):
    ism = export_ism433(data / "ism433_devices_dev.npz", output / "recordings" / "ism433")
    csi = export_csi_har(data / "csi_har_rpi4_amplitude.npz", output / "recordings" / "csi-har")
    for name, (window_length, _, _, _) in SETS.items():
        folder = csi if name == "csi-har" else ism
        if not (output / "data" / name).exists():
            build_recording_folder(folder, output / "data" / name, window_length=window_length)


def pretrain_family(output: Path, name: str, dataset: Path, family: str, epochs: int):
    MMWFMConfig.from_pretrained(PRESET, segment_length=SEGMENT_LENGTH).save_pretrained(output / "model")
    data = pretrain.DataArguments(
        model=str(output / "model"),
        **{f"{family}_dataset": str(dataset)},
        normalization="sample" if family == "iq" else "dataset",
        image_height=64,
        image_width=256,
    )
    settings = IQ_SETTINGS if family == "iq" else {}
    arguments = PretrainingArguments(
        output_dir=str(output / name),
        num_train_epochs=epochs,
        warmup_epochs=epochs / 20,
        batch_size=64,
        base_learning_rate=4e-3,
        eval_epochs=epochs / 10,
        save_epochs=epochs / 10,
        logging_steps=50,
        **settings,
    )
    pretrain.main(data, arguments)


def adapt(output: Path, name: str, regime: str, seed: int) -> dict:
    _, family, base, epochs = SETS[name]
    task = finetune.TaskArguments(model=str(output / base), dataset=str(output / "data" / name))
    arguments = FinetuningArguments(
        output_dir=str(output / "adapted" / f"{name}-{regime}-{seed}"),
        regime=regime,
        num_train_epochs=epochs,
        batch_size=32,
        base_learning_rate=8e-3,  # 1e-3 at this batch size
        layer_decay=1.0,
        label_smoothing=0.05,
        seed=seed,
        **(IQ_SETTINGS if family == "iq" else {}),
    )
    return finetune.main(task, arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the NPZ archives")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    build_sets(options.data, options.output)
    pretrain_family(options.output, "pretrain-ism433", options.output / "data" / "ism433-4096", "iq", 200)
    pretrain_family(options.output, "pretrain-csi-har", options.output / "data" / "csi-har", "image", 300)
    results = {
        name: {
            regime: [adapt(options.output, name, regime, seed)["test"]["mean_class_accuracy"] for seed in SEEDS]
            for regime in REGIMES
        }
        for name in SETS
    }
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    lines = [f"| set | {' | '.join(REGIMES)} |", "|---|" + "---|" * len(REGIMES)]
    for name, cells in results.items():
        shown = [f"{np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}" for values in cells.values()]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    (options.output / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
