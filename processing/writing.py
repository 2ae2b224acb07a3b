"""Write a data set as a folder of Parquet files that `load_dataset(folder)` opens, in parallel and all or nothing."""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import datasets
import multiprocess
import numpy as np
import pyarrow as pa
import torch
from datasets import ArrowBasedBuilder, Features, SplitGenerator
from datasets.arrow_writer import OptimizedTypedSequence

RECIPE_FILE = "generation.json"
BUFFER_BYTES = 2**25  # of rows that a process holds before it writes them


def _table(features, rows):
    """Rows as one Arrow table. Arrays are stacked first: converted one by one they take half as long as the writing."""
    columns = features.encode_batch({name: [row[name] for row in rows] for name in rows[0]})
    arrays = []
    for name, feature in features.items():
        values = np.stack(columns[name]) if hasattr(feature, "shape") else columns[name]
        arrays.append(pa.array(OptimizedTypedSequence(values, type=feature, col=name)))
    return pa.Table.from_arrays(arrays, schema=features.arrow_schema)


class _FolderBuilder(ArrowBasedBuilder):
    """Rows are a function of (split, item), so any number of processes writes the same data in the same order."""

    VERSION = "1.0.0"

    def __init__(self, *, row_function, items, columns, **kwargs):
        self.row_function, self.items, self.columns = row_function, items, columns
        super().__init__(**kwargs)

    def _info(self):
        return datasets.DatasetInfo(features=self.columns)

    def _split_generators(self, dl_manager):
        # `datasets` hands each process its part of every list in gen_kwargs.
        return [
            SplitGenerator(name=split, gen_kwargs={"split": [split] * len(items), "items": list(items)})
            for split, items in self.items.items()
        ]

    def _generate_tables(self, split, items):
        if multiprocess.parent_process() is not None:
            # a process made by fork must not enter its parent's OpenMP threads: it would hang
            torch.set_num_threads(1)
        rows = ({**row, "split": name} for name, item in zip(split, items) for row in self.row_function(name, item))
        number = 0
        while batch := list(islice(rows, self._writer_batch_size)):
            yield number, _table(self.info.features, batch)
            number += 1


def fingerprint(files: Iterable[Path], folder: Path) -> str:
    """SHA-256 over name, size and modification time of input files, for a recipe: other input is another data set."""
    stamps = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


def row_bytes(features: Features) -> int:
    """Size of a row's arrays."""
    shapes = [feature.shape for feature in features.values() if hasattr(feature, "shape")]
    return max(1, sum(4 * math.prod(shape) for shape in shapes))


def write_dataset(
    output_dir: str | Path,
    features: Features,
    items: dict[str, Sequence],
    row_function: Callable,
    recipe: dict,
    num_proc: int = 1,
) -> Path:
    """Write `items` of every split to Parquet under `output_dir`.

    Args:
        output_dir: the folder to make. Appears only when everything is written.
        features: columns, from `processing.schema`.
        items: split name ("train", "validation", "test") -> one entry per unit of work (an index, a file ...).
        row_function: picklable `(split, item) -> iterable of rows`; the "split" column is added here.
        recipe: what made the data (JSON values); stored beside it. If the folder exists and was made by the same
            recipe nothing is done.
        num_proc: number of processes; the result does not depend on it.

    Raises:
        ValueError: the folder exists and holds something else, or a split is empty.
    """
    output_dir = Path(output_dir)
    recipe = json.loads(json.dumps(recipe))
    if output_dir.exists() and any(output_dir.iterdir()):
        marker = output_dir / RECIPE_FILE
        if marker.is_file() and json.loads(marker.read_text()) == recipe:
            return output_dir
        raise ValueError(
            f"expected {output_dir} to be absent, empty or made by the same recipe; found other content. Remove it or choose another folder."
        )
    if empty := [split for split, entries in items.items() if len(entries) == 0]:
        raise ValueError(f"expected at least one item in every split, found none in {', '.join(empty)}")

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as work:
        builder = _FolderBuilder(
            row_function=row_function,
            items=items,
            columns=features,
            cache_dir=f"{work}/cache",
            dataset_name="data",
            writer_batch_size=max(1, min(1000, BUFFER_BYTES // row_bytes(features))),
        )
        processes = min([num_proc, *map(len, items.values())])
        builder.download_and_prepare(
            output_dir=f"{work}/data", file_format="parquet", num_proc=processes if processes > 1 else None
        )
        (Path(work) / "data" / RECIPE_FILE).write_text(json.dumps(recipe, indent=1))
        (Path(work) / "data" / "dataset_info.json").unlink(missing_ok=True)
        if output_dir.exists():
            output_dir.rmdir()
        shutil.move(f"{work}/data", output_dir)
    return output_dir
