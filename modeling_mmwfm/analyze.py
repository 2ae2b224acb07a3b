"""What is where in a long recording: annotations, probabilities of every window and a waterfall.

    python -m modeling_mmwfm.analyze RECORDING --model FOLDER_OR_NAME --output DIR

RECORDING (SigMF, raw IQ, WAV, NPY or a capture of CSI) may be larger than the memory: it is read window by window. DIR
gets

    <recording>.sigmf-meta  one annotation for each stretch of one class: label, score, samples and frequency edges
    <recording>.csv         one row for each window: start, time, label, score, novelty and the probabilities of all classes
    <recording>.png         the waterfall (of CSI its Doppler), and under it the class over time

Of CSI the samples are packets. Windows whose novelty is above 1 are unlike what the model was trained on: they are grey in
the figure, and annotations say so.
"""

import csv
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoProcessor, HfArgumentParser
from transformers.hf_argparser import HfArg

from .analysis_mmwfm import Segments, Waterfall, fluctuation, plot_analysis, write_annotations
from .embed import local_folder
from .finetuning_mmwfm import load_adapted
from .pipeline_mmwfm import check_head
from .recordings_mmwfm import SUFFIXES, Recording, count_windows, open_recording, window_start


@dataclass
class AnalysisArguments:
    """How to cut the recording and what to look for."""

    model: str = HfArg(
        aliases=["--adapter"], help="folder or Hub name of a fine-tuned model or of an adapter", default=""
    )
    output: str = field(default="analysis", metadata={"help": "folder for the results"})
    window_length: int = field(default=4096, metadata={"help": "samples of a window, as the model was trained"})
    overlap: float = field(default=0.5, metadata={"help": "share of a window that the next one covers again"})
    batch_size: int = field(default=64, metadata={"help": "windows in one forward"})
    views: list[str] | None = field(
        default=None,
        metadata={"help": "what to make of IQ: iq, spectrogram or both; default: as the model was trained"},
    )
    datatype: str | None = field(default=None, metadata={"help": "of a .bin: cu8, ci16_le, cf32_le, ..."})
    chip: str | None = field(default=None, metadata={"help": "of a capture of nexmon: 43455c0, ..."})
    unit: str | None = field(default=None, metadata={"help": "of CSI: linear or db; default: found"})
    num_antennas: int = field(default=1, metadata={"help": "interleaved in a raw binary or WAV"})
    sampling_rate_hz: float | None = field(
        default=None, metadata={"help": "if the recording does not say it; of CSI that of the packets"}
    )
    center_frequency_hz: float | None = field(default=None, metadata={"help": "if the recording does not say it"})
    resample: bool = field(default=False, metadata={"help": "convert windows to the model's sampling rate"})
    background: list[str] = field(
        default_factory=list, metadata={"help": "classes that are not annotated, such as noise"}
    )
    min_score: float = field(default=0.0, metadata={"help": "windows below are not annotated"})
    min_windows: int = field(
        default=1, metadata={"help": "stretches of fewer windows are not annotated, such as where two signals meet"}
    )

    def __post_init__(self):
        if not self.model:
            raise ValueError("`model`: expected a fine-tuned model or an adapter, found none")
        for name in ("window_length", "batch_size", "num_antennas", "min_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected at least 1, found {getattr(self, name)}")
        for name, high in (("overlap", 0.99), ("min_score", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"`{name}`: expected 0 to {high}, found {getattr(self, name)}")


def load_model(name: str):
    """Fine-tuned model, or base with adapter, and its processor; by folder or Hub name."""
    folder = local_folder(name)
    model = load_adapted(folder)
    check_head(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), AutoProcessor.from_pretrained(folder)


def agreed(recording: Recording, name: str, given: float | None) -> float:
    """The rate or frequency of the file, or the given one; 0 if neither is known."""
    from_file = getattr(recording, name)
    if recording.kind == "csi" and given:  # whose rate is measured
        return given
    if from_file and given and abs(given / from_file - 1) > 1e-6:
        raise ValueError(f"`{name}`: expected {from_file:g}, which {recording.path} says, found {given:g}")
    return from_file or given or 0.0


def batches_of_windows(recording: Recording, length: int, hop: int, batch_size: int):
    """(first samples (B,), windows (B, ..., length)) over the whole recording; each batch is read at once."""
    num_samples = recording.shape[-1]
    count = count_windows(num_samples, length, hop)
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        starts = np.array([window_start(number, num_samples, length, hop) for number in numbers])
        block = recording.window(starts[0], starts[-1] + length - starts[0])
        windows = np.lib.stride_tricks.sliding_window_view(block, min(length, num_samples), axis=-1)
        yield starts, np.moveaxis(windows[..., starts - starts[0], :], -2, 0)


@torch.no_grad()
def analyze(path: str | Path, arguments: AnalysisArguments) -> dict[str, Path]:
    """Go through a recording; see the module.

    Returns:
        the files written, by kind: "annotations", "windows", "figure". They appear when all are complete.

    Raises:
        ValueError: the recording is not what it must be or an image, the model is no classifier, or neither fits the
            arguments.
    """
    model, processor = load_model(arguments.model)
    kind = {"images": "image"}.get(processor.kind, processor.kind)
    recording = open_recording(path, arguments.datatype, arguments.num_antennas, kind, arguments.chip)
    if recording.kind == "image" or kind not in (None, recording.kind):
        expected = kind.upper() if kind in ("iq", "csi") else "IQ or CSI"
        raise ValueError(f"expected {expected} in {path}, found {recording.kind} of shape {recording.shape}")
    rate_hz = agreed(recording, "sampling_rate_hz", arguments.sampling_rate_hz)
    center_hz = agreed(recording, "center_frequency_hz", arguments.center_frequency_hz)
    if model.config.problem_type == "regression":
        raise ValueError(f"expected a classifier in {arguments.model}, found a model of positions: use its pipeline")
    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if unknown := sorted(set(arguments.background) - set(labels)):
        raise ValueError(f"`background`: expected classes of the model, {', '.join(labels)}; found {unknown}")
    path, output = Path(path), Path(arguments.output)
    own_meta = path.with_suffix(".sigmf-meta") if path.suffix in (".sigmf-meta", ".sigmf-data") else None
    names = {"annotations": f"{path.stem}.sigmf-meta", "windows": f"{path.stem}.csv", "figure": f"{path.stem}.png"}
    if own_meta is not None and own_meta.resolve() == (output / names["annotations"]).resolve():
        raise ValueError(f"expected another `output` than the folder of the recording, found {output}")

    num_samples = recording.shape[-1]
    length = min(arguments.window_length, num_samples)
    hop = max(1, round(length * (1 - arguments.overlap)))
    segments = Segments(num_samples, length, arguments.min_score, [labels.index(x) for x in arguments.background])
    waterfall = Waterfall(num_samples, length, len(labels))
    if recording.kind == "csi":
        options = {"packet_rate_hz": rate_hz or None, "resample": arguments.resample, "unit": arguments.unit}
    else:
        options = {"sampling_rate_hz": rate_hz or None, "resample": arguments.resample, "views": arguments.views}
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{path.stem}-") as work:
        files = {kind: Path(work) / name for kind, name in names.items()}
        with (
            files["windows"].open("w", newline="") as table,
            tqdm(total=num_samples, unit="sample", unit_scale=True, desc=path.stem) as progress,
        ):
            writer = csv.writer(table)
            columns = ["start", "time_s", "label", "score", "novelty"]
            writer.writerow([*columns, *(f"probability_{label}" for label in labels)])
            for starts, windows in batches_of_windows(recording, length, hop, arguments.batch_size):
                batch = processor(**{recording.kind: windows}, **options).to(model.device)
                outputs = model(**batch)
                probabilities = outputs.logits.float().softmax(-1).cpu().numpy()
                novelty = outputs.get("novelty")
                novelties = [None] * len(starts) if novelty is None else novelty.tolist()
                spectra = waterfall.add(starts, fluctuation(windows) if recording.kind == "csi" else windows)
                for start, row, novelty, spectrum in zip(starts.tolist(), probabilities, novelties, spectra):
                    best = int(row.argmax())
                    time_s = f"{start / rate_hz:.9g}" if rate_hz else ""
                    numbers = ["" if value is None else f"{value:.6g}" for value in (row[best], novelty, *row)]
                    writer.writerow([start, time_s, labels[best], *numbers])
                    waterfall.mark(*segments.add(start, best, float(row[best]), spectrum, novelty or 0.0))
                progress.update(min(int(starts[-1]) + length, num_samples) - progress.n)
        waterfall.mark(*segments.finish())
        found = [segment for segment in segments.found if segment.num_windows >= arguments.min_windows]
        write_annotations(files["annotations"], recording, own_meta, found, labels, rate_hz, center_hz)
        plot_analysis(
            files["figure"], waterfall, labels, rate_hz, center_hz, path.stem, doppler=recording.kind == "csi"
        )
        for kind, name in names.items():
            os.replace(files[kind], output / name)
    return {kind: output / name for kind, name in names.items()}


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser(AnalysisArguments, description=__doc__.splitlines()[0])
    parser.add_argument("recording", help=", ".join(SUFFIXES))
    try:
        parsed, rest = parser.parse_args_into_dataclasses(arguments)
        for kind, path in analyze(rest.recording, parsed).items():
            print(f"{kind}: {path}")
    except (ValueError, OSError) as error:
        sys.exit(f"analyze: error: {error}")


if __name__ == "__main__":
    main()
