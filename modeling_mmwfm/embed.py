"""Embeddings of a folder of recordings as a Parquet data set.

    python -m modeling_mmwfm.embed FOLDER --model FOLDER_OR_NAME --output DIR --window_length 4096
    python -m torch.distributed.run --nproc_per_node 2 -m modeling_mmwfm.embed FOLDER ...

FOLDER holds recordings (SigMF, raw IQ, WAV, NPY, captures of CSI) and optionally `metadata.csv` with a row for each:
`file_name`, what the file does not say itself (`datatype`, `num_antennas`, `sampling_rate_hz`, which for CSI is that of the
packets, `chip`) and any other columns, which are kept.
Recordings are embedded in shards, one file each, spread over the processes; a run that was interrupted goes on with
the shards that are missing. `load_dataset(DIR)` opens the result, which appears when it is complete.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow
import pyarrow.parquet
import torch
from accelerate import PartialState
from datasets import Features, List, Value
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor, HfArgumentParser

from .files_mmwfm import write_json
from .pipeline_mmwfm import pooled_features
from .recordings_mmwfm import SUFFIXES, Recording, count_windows, is_recording, open_recording, window_start

RECIPE_FILE = "embedding.json"
BUFFERED_ROWS = 4096  # that a process holds before it writes them
READER_COLUMNS = ("datatype", "num_antennas", "sampling_rate_hz", "chip")
OWN_COLUMNS = ("file_name", "start", "embedding")


@dataclass
class EmbeddingArguments:
    """What computes the embeddings, and of which windows."""

    model: str = field(metadata={"help": "folder or Hub name of a checkpoint, a fine-tuned model or an adapter"})
    output: str = field(metadata={"help": "folder to make"})
    window_length: int | None = field(
        default=None, metadata={"help": "samples (packets of CSI) of a window; default: each recording as a whole"}
    )
    hop: int | None = field(default=None, metadata={"help": "samples from window to window; default: window_length"})
    batch_size: int = field(default=64, metadata={"help": "windows in one forward"})
    recordings_per_shard: int = field(default=100, metadata={"help": "recordings in one file of the result"})
    kind: str | None = field(
        default=None,
        metadata={
            "choices": ["iq", "images", "csi"],
            "help": "what arrays in .npy files are; default: what the model was adapted to, else by type and shape",
        },
    )
    views: list[str] | None = field(
        default=None,
        metadata={"help": "what to make of IQ: iq, spectrogram or both; default: as the model was trained"},
    )
    resample: bool = field(default=False, metadata={"help": "convert IQ to the model's sampling rate"})

    def __post_init__(self):
        for name in ("window_length", "hop", "batch_size", "recordings_per_shard"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected at least 1, found {getattr(self, name)}")
        if self.hop is not None and self.window_length is None:
            raise ValueError(f"`hop`: expected `window_length` beside it, found hop = {self.hop} alone")


def list_recordings(folder: Path) -> list[dict[str, str]]:
    """Rows of `metadata.csv`, or one of its name for each recording in the folder.

    Raises:
        ValueError: no folder, no recordings, or a table that does not fit the files.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a folder of recordings, found none at {folder}")
    path = folder / "metadata.csv"
    if not path.is_file():
        suffixes = set(SUFFIXES) - {".sigmf-data"}
        files = sorted(
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in suffixes and file.is_file() and is_recording(file)
        )
        if not files:
            raise ValueError(f"expected recordings ({', '.join(sorted(suffixes))}) in {folder}, found none")
        return [{"file_name": file.relative_to(folder).as_posix()} for file in files]
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        rows, columns = list(reader), reader.fieldnames or []
    if "file_name" not in columns or clash_of(columns):
        raise ValueError(
            f"expected a column file_name, none twice and no {OWN_COLUMNS[1:]} in {path}, found {columns}"
        )
    if not rows:
        raise ValueError(f"expected at least one row in {path}, found none")
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValueError(f"expected {len(columns)} cells in every row of {path}, found others in row {number + 1}")
        name = PurePosixPath(row["file_name"])
        if name.is_absolute() or ".." in name.parts or not (folder / name).is_file():
            raise ValueError(f"expected file names inside {folder} in {path}, found {row['file_name']!r}")
    return rows


def clash_of(columns: list[str]) -> bool:
    return len(set(columns)) < len(columns) or not set(columns).isdisjoint(OWN_COLUMNS[1:])


def open_row(folder: Path, row: dict[str, str], kind: str | None = None) -> tuple[Recording, float | None]:
    """A recording and its sampling rate (of CSI the packet rate), if known."""
    path = folder / row["file_name"]
    numbers = {}
    for name, number in (("num_antennas", int), ("sampling_rate_hz", float)):
        try:
            numbers[name] = number(row.get(name) or 0)
        except ValueError:
            raise ValueError(f"expected {name} of {path} as a number in metadata.csv, found {row[name]!r}") from None
    options = {"kind": {"images": "image"}.get(kind, kind), "chip": row.get("chip") or None}
    recording = open_recording(path, row.get("datatype") or None, numbers["num_antennas"] or 1, **options)
    from_file, from_row = recording.sampling_rate_hz, numbers["sampling_rate_hz"]
    if recording.kind == "iq" and from_file and from_row and abs(from_row / from_file - 1) > 1e-6:
        raise ValueError(f"expected sampling_rate_hz {from_file:g} of {path} in metadata.csv, found {from_row:g}")
    if recording.kind == "csi":  # whose rate is measured
        from_file = from_row or from_file
    return recording, from_file or from_row or None


def local_folder(name: str) -> Path:
    """Folder of a model or an adapter, fetched from the Hub if there is none of this name."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ValueError(f"expected the folder or Hub name of a model, found none at {name!r}: {error}") from error
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"expected a model or an adapter in {folder}, found no config.json or adapter_config.json")
    return folder


def load_encoder(name: str):
    """Model with any head or adapter, and its processor; by folder or Hub name."""
    folder = local_folder(name)
    if (folder / "adapter_config.json").is_file():
        from .finetuning_mmwfm import load_adapted  # brings all of training with it, which takes seconds

        model = load_adapted(folder)
    else:
        model = AutoModel.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def embed_recording(model, processor, recording: Recording, rate_hz, arguments: EmbeddingArguments):
    """(first samples, embeddings (B, hidden_size)) batch by batch; an image-like recording is one window."""
    if recording.kind == "image":
        batch = processor(images=recording.window(0, recording.shape[-1])).to(model.device)
        yield [0], pooled_features(model, batch).float().cpu().numpy()
        return
    num_samples = recording.shape[-1]
    length = min(arguments.window_length or num_samples, num_samples)
    hop = arguments.hop or length
    count = count_windows(num_samples, length, hop)
    for first in range(0, count, arguments.batch_size):
        numbers = range(first, min(first + arguments.batch_size, count))
        starts = [window_start(number, num_samples, length, hop) for number in numbers]
        windows = [recording.window(start, length) for start in starts]
        if recording.kind == "csi":
            batch = processor(csi=windows, packet_rate_hz=rate_hz).to(model.device)
        else:
            options = {"sampling_rate_hz": rate_hz, "resample": arguments.resample, "views": arguments.views}
            batch = processor(iq=windows, **options).to(model.device)
        yield starts, pooled_features(model, batch).float().cpu().numpy()


def write_shard(path: Path, folder: Path, rows, model, processor, arguments: EmbeddingArguments):
    """Embeddings of the recordings of one shard; the file appears when it is complete."""
    columns = [name for name in rows[0] if name != "file_name"]
    width = model.config.hidden_size * (2 if getattr(model.config, "pooling", None) == "mean_std" else 1)
    features = Features(
        {"file_name": Value("string"), "start": Value("int64")}
        | {name: Value("string") for name in columns}
        | {"embedding": List(Value("float32"), length=width)}
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    buffer = {name: [] for name in features}
    with pyarrow.parquet.ParquetWriter(unfinished, features.arrow_schema) as writer:

        def flush():
            writer.write_table(pyarrow.table(buffer, schema=features.arrow_schema))
            for values in buffer.values():
                values.clear()

        for row in rows:
            opened = open_row(folder, row, arguments.kind or processor.kind)
            for starts, embeddings in embed_recording(model, processor, *opened, arguments):
                buffer["start"] += starts
                buffer["embedding"] += list(embeddings)
                for name in ("file_name", *columns):
                    buffer[name] += [row[name]] * len(starts)
                if len(buffer["start"]) >= BUFFERED_ROWS:
                    flush()
        flush()
    unfinished.replace(path)


def recipe_of(folder: Path) -> dict | None:
    """What made a folder; None: nothing of this module."""
    marker = folder / RECIPE_FILE
    return json.loads(marker.read_text()) if marker.is_file() else None


def embed(folder: str | Path, arguments: EmbeddingArguments) -> Path:
    """Embed all recordings of a folder; see the module.

    Returns:
        `arguments.output`. Columns `file_name`, `start` (first sample), those of metadata.csv (text) and `embedding`
        (hidden_size; with pooling "mean_std" twice that) float32.

    Raises:
        ValueError: a recording is not what it must be, or `output` holds something else.
    """
    folder, output = Path(folder), Path(arguments.output)
    rows = list_recordings(folder)
    stats = [(folder / row["file_name"]).stat() for row in rows]
    stamps = json.dumps([[row, stat.st_size, stat.st_mtime_ns] for row, stat in zip(rows, stats)])
    settings = {key: value for key, value in vars(arguments).items() if key not in ("output", "batch_size")}
    recipe = settings | {"files_sha256": hashlib.sha256(stamps.encode()).hexdigest()}
    if output.exists() and any(output.iterdir()):
        if recipe_of(output) == recipe:
            return output
        raise ValueError(f"expected {output} to be absent, empty or of the same recordings and arguments, it is not")

    model, processor = load_encoder(arguments.model)
    for row in rows:  # what cannot be read ends the run at once
        open_row(folder, row, arguments.kind or processor.kind)
    state = PartialState(cpu=not torch.cuda.is_available())  # without `cpu` it takes no gloo
    work = output.with_name(f".{output.name}.unfinished")
    if state.is_main_process and recipe_of(work) != recipe:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / RECIPE_FILE, recipe)
    state.wait_for_everyone()
    model.to(state.device)
    size = arguments.recordings_per_shard
    shards = [rows[first : first + size] for first in range(0, len(rows), size)]
    missing = [
        (work / f"train-{number:05d}-of-{len(shards):05d}.parquet", shard)
        for number, shard in enumerate(shards)
        if number % state.num_processes == state.process_index
    ]
    missing = [(path, shard) for path, shard in missing if not path.exists()]
    for path, shard in tqdm(missing, desc="shards", disable=not state.is_local_main_process):
        write_shard(path, folder, shard, model, processor, arguments)
    state.wait_for_everyone()
    if state.is_main_process:
        for unfinished in work.glob(".train-*"):
            unfinished.unlink()
        if output.exists():
            output.rmdir()
        work.replace(output)
    state.wait_for_everyone()
    return output


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser(EmbeddingArguments, description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of recordings")
    try:
        parsed, rest = parser.parse_args_into_dataclasses(arguments)
        print(embed(rest.folder, parsed))
        if torch.distributed.is_initialized():  # a process that ends with its threads running may abort
            torch.distributed.destroy_process_group()
    except (ValueError, OSError) as error:
        sys.exit(f"embed: error: {error}")


if __name__ == "__main__":
    main()
