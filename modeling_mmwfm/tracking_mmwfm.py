"""What is measured while a run goes on: speed, reconstructions, and the trackers they go to."""

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from .figures_mmwfm import plot_reconstruction, reconstruct
from .mask_noise_mmwfm import takes_noise

TRACKERS = ("tensorboard", "trackio")


def check_trackers(names: list[str]):
    """
    Raises:
        ValueError: an unknown tracker, or one whose package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"`report_to`: expected {', '.join(TRACKERS)} or none, found {name!r}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"`report_to`: expected the package `{name}` to be installed, found none: pip install {name}"
            )


def start_trackers(accelerator: Accelerator, output_dir: Path, step: int):
    """TensorBoard writes to `output_dir/logs`, trackio where it always does; a resumed run goes on in both."""
    if not accelerator.log_with:
        return
    run = json.loads((output_dir / "run.json").read_text())
    # They take flat values alone.
    run = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in run.items()}
    resumed = {"tensorboard": {"purge_step": step + 1}, "trackio": {"name": output_dir.name, "resume": "allow"}}
    accelerator.init_trackers("pretraining", config=run, init_kwargs=resumed)


def draw_reconstructions(accelerator: Accelerator, model, rows: dict, collators, output_dir: Path, step: int):
    """Three samples of each source, if the model reconstructs: to `output_dir` and the trackers."""
    if not takes_noise(model):
        return
    for source, dataset in rows.items():
        with accelerator.autocast():  # a sharded model needs all processes
            pictures = reconstruct(model, collators[source](next(dataset.iter(3))))
        for name, parts in pictures.items() if accelerator.is_main_process else ():
            what = f"{source}_{name}" if len(pictures) > 1 else source
            path = plot_reconstruction(name, parts, output_dir / f"reconstruction_{what}.png")
            for tracker in accelerator.trackers:
                show_image(tracker, path, step)


def show_image(tracker, path: Path, step: int):
    if tracker.name == "tensorboard":
        image = np.asarray(Image.open(path).convert("RGB"))
        tracker.log_images({path.stem: image[None]}, step, dataformats="NHWC")
    else:
        import trackio

        tracker.log({path.stem: trackio.Image(str(path))}, step)


class Speed:
    """Samples and tokens per second of training itself, and the time left with everything."""

    def __init__(self, step: int, num_steps: int):
        self.num_steps = num_steps
        self.begun = self.looked = time.perf_counter(), step

    def look(self, step: int, samples: int, tokens: int) -> dict[str, float]:
        """Since the last look, given the samples and tokens of a step over all processes."""
        now = time.perf_counter()
        steps_per_s = (step - self.looked[1]) / (now - self.looked[0])
        left_s = (self.num_steps - step) * (now - self.begun[0]) / (step - self.begun[1])
        self.looked = now, step
        row = {"samples_per_s": samples * steps_per_s, "tokens_per_s": tokens * steps_per_s, "time_left_s": left_s}
        return {name: round(value, 1) for name, value in row.items() if tokens or name != "tokens_per_s"}

    def skip(self, step: int):
        """What happened since the last look was not training."""
        self.looked = time.perf_counter(), step
