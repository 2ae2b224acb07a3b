"""The folder of a pretraining run: what the run is, its checkpoints, and the model at the end."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator

from .cards_mmwfm import write_pretraining_card
from .files_mmwfm import write_json
from .step_batches_mmwfm import INPUTS

RUN_FILE, LOG_FILE = "run.json", "training_log.json"
# A run stays the same when these change.
NOT_OF_THE_RUN = ("output_dir", "num_workers", "report_to", "save_total_limit", "keep_in_memory")


def describe_run(arguments, provenance: dict | None) -> dict:
    """What a run must share with the one whose folder it goes on in."""
    run = {**asdict(arguments), **(provenance or {})}
    return json.loads(json.dumps({name: value for name, value in run.items() if name not in NOT_OF_THE_RUN}))


def finished_log(arguments, provenance: dict | None = None) -> list[dict] | None:
    """The log of a run that has ended; None if there is none or it can be resumed.

    Raises:
        ValueError: the folder holds another run.
    """
    output_dir, run = Path(arguments.output_dir), describe_run(arguments, provenance)
    if not (output_dir / RUN_FILE).is_file():
        return None
    found = json.loads((output_dir / RUN_FILE).read_text())
    if found != run:
        changed = sorted(key for key in found.keys() | run.keys() if found.get(key) != run.get(key))
        raise ValueError(
            f"expected {output_dir} to be new or a run of the same arguments, found one of other "
            f"{', '.join(changed)}; choose another output_dir"
        )
    if not (output_dir / LOG_FILE).is_file():
        return None
    tidy(output_dir)  # the end itself may have been interrupted
    return json.loads((output_dir / LOG_FILE).read_text())


def begin_run(accelerator: Accelerator, arguments, provenance: dict | None):
    """Make the folder, or take away what an interruption left in it."""
    if accelerator.is_main_process:
        output_dir = Path(arguments.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        for unfinished in output_dir.glob(".unfinished-*"):
            shutil.rmtree(unfinished)
        write_json(output_dir / RUN_FILE, describe_run(arguments, provenance))
    accelerator.wait_for_everyone()


def checkpoints(output_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def latest_checkpoint(output_dir: Path) -> Path | None:
    return next(reversed(checkpoints(output_dir)), None)


def remove(folder: Path):
    """Under another name first: a checkpoint that can be seen is complete."""
    shutil.rmtree(folder.rename(folder.with_name(f".unfinished-{folder.name}")))


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, keep: int):
    """Under another name first: a checkpoint that can be seen is complete."""
    unfinished = output_dir / f".unfinished-{step}"
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        unfinished.rename(output_dir / f"checkpoint-{step}")
        for old in checkpoints(output_dir)[:-keep]:
            remove(old)
    accelerator.wait_for_everyone()


def finish_run(accelerator: Accelerator, model, blank: tuple, processor, log: list[dict], output_dir: Path):
    """Save the model as a Hub-ready folder; the log, written last, marks the end.

    Args:
        blank: class and configuration of the model.
    """
    weights = accelerator.get_state_dict(model)  # whole, even of a sharded model, which needs all processes
    if accelerator.is_main_process:
        # A model of its own class: that of a sharded one is made while it runs, and its code would not be saved.
        model_class, config = blank
        whole = model_class(config)
        whole.load_state_dict(weights)
        unfinished = output_dir / ".unfinished-model"
        whole.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        for path in unfinished.iterdir():
            path.replace(output_dir / path.name)
        run = json.loads((output_dir / RUN_FILE).read_text())
        sources = [source for source in INPUTS if f"{source}_loss" in log[-1]]
        write_pretraining_card(
            output_dir, log, {source: run.get(f"{source}_dataset") or "not named" for source in sources}
        )
        write_json(output_dir / LOG_FILE, log)
        tidy(output_dir)
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.wait_for_everyone()


def tidy(output_dir: Path):
    """Take away what a finished run does not need."""
    for checkpoint in checkpoints(output_dir):
        remove(checkpoint)
    for unfinished in output_dir.glob(".unfinished-*"):
        shutil.rmtree(unfinished)
