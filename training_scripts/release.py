"""A pretraining run as a folder to publish: weights in half precision, which open as float32.

    python training_scripts/release.py --model runs/small --output_dir model_cards/mmwfm-small

The card is the run's; a card that is already there stays.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForPreTraining

from modeling_mmwfm import MMWFMProcessor
from modeling_mmwfm.files_mmwfm import write_json
from modeling_mmwfm.recipes_mmwfm import read_json, run_script
from modeling_mmwfm.run_folder_mmwfm import LOG_FILE, RUN_FILE


@dataclass
class ReleaseArguments:
    model: str = field(metadata={"help": "folder of a finished pretraining run"})
    output_dir: str = field(metadata={"help": "folder to publish"})


def main(arguments: ReleaseArguments):
    run, folder = Path(arguments.model), Path(arguments.output_dir)
    for name in (LOG_FILE, RUN_FILE):
        if not (run / name).is_file():
            raise ValueError(f"`model`: expected the folder of a finished pretraining run, found no {name} in {run}")
    unfinished = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)

    # model: float16 rounds weights to 11 bits, and whoever opens them gets float32
    model = AutoModelForPreTraining.from_pretrained(run, dtype=torch.float32)
    large = [name for name, value in model.state_dict().items() if not value.half().isfinite().all()]
    if large:
        raise ValueError(f"expected weights in the range of float16, found larger ones in {large}")
    model.half().save_pretrained(unfinished)
    config = read_json((unfinished / "config.json").read_text(), "config.json")
    write_json(unfinished / "config.json", config | {"dtype": "float32"})
    MMWFMProcessor.from_pretrained(run).save_pretrained(unfinished)

    # what the run was, and how it went
    card = [] if (folder / "README.md").is_file() else ["README.md"]
    for path in [run / name for name in (LOG_FILE, RUN_FILE, *card)] + sorted(run.glob("*.png")):
        shutil.copy(path, unfinished / path.name)
    folder.mkdir(parents=True, exist_ok=True)
    for path in unfinished.iterdir():
        path.replace(folder / path.name)
    unfinished.rmdir()
    print(f"{folder} is complete")


if __name__ == "__main__":
    run_script(main, ReleaseArguments)
