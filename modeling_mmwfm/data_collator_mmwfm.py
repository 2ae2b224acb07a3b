"""Rows of a data set -> a batch for the model."""

import zlib

import numpy as np
import torch
from datasets import Dataset, IterableDataset, load_dataset

from .augmentation_mmwfm import Augmentations, shift_frequency
from .processing_mmwfm import MMWFMProcessor, common_unit

INPUT_COLUMNS = ("iq", "image", "csi")
FAMILIES = {"iq": "iq", "image": "image", "csi": "image"}  # column -> the input of the model that it becomes


def kind_of(columns) -> str | None:
    """The one kind of input that rows of these columns hold, as the processor names it; None: several."""
    kinds = {"iq": "iq", "image": "images", "csi": "csi"}
    found = [kinds[column] for column in INPUT_COLUMNS if column in columns]
    return found[0] if len(found) == 1 else None


class MMWFMDataCollator:
    """Rows, or columns read at once, -> model input and `labels`.

    Args:
        processor: normalises; sampling rates are checked where a row names one.
        carrier_shift: each IQ row is moved in frequency by a random share of its sampling rate in
            [-carrier_shift, carrier_shift]; 0.5 takes the carrier's place away as a clue.
        label_column: "label" (class), "position" (metres) or None.
        views: what is made of IQ; default: the processor's `iq_views`.
        augmentations: of the rows, where `__call__` is given a generator.
        second_view: then also make `positive_...`, the same rows augmented by other draws.
    """

    def __init__(
        self,
        processor: MMWFMProcessor,
        carrier_shift: float = 0.0,
        label_column: str | None = None,
        views: tuple[str, ...] | None = None,
        augmentations: Augmentations | None = None,
        second_view: bool = False,
    ):
        if not 0 <= carrier_shift <= 0.5:
            raise ValueError(f"`carrier_shift`: expected 0 to 0.5 of the sampling rate, found {carrier_shift}")
        if second_view and augmentations is None:
            raise ValueError("`second_view`: expected `augmentations` by which the views differ, found none")
        self.processor = processor
        self.carrier_shift = carrier_shift
        self.label_column = label_column
        self.views = tuple(processor.iq_views if views is None else views)
        self.augmentations = augmentations
        self.second_view = second_view

    def __call__(
        self, rows, draws: np.ndarray | None = None, generator: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: list of rows, or dict of columns.
            draws: (B,) numbers in [-1, 1) that the carrier shifts are made of; without them they follow from each
                row's recording and start, so that an evaluation set is always shifted in the same way.
            generator: that augmentations are drawn from; without it there are none, and no second view.
        """
        columns = rows if isinstance(rows, dict) else {key: [row[key] for row in rows] for key in rows[0]}
        if generator is None or self.augmentations is None:
            return self.prepare(columns, draws)
        batch = self.prepare(self.augmentations(columns, generator), draws)
        if self.second_view:
            second = self.prepare(self.augmentations(columns, generator), draws)
            batch |= {f"positive_{name}": value for name, value in second.items() if name != "labels"}
        return batch

    def prepare(self, columns: dict, draws: np.ndarray | None) -> dict[str, torch.Tensor]:
        """Columns -> model input and `labels`."""
        inputs = {}
        if "iq" in columns:
            iq = shifted_iq(columns, self.carrier_shift, draws)
            inputs |= {"iq": iq, "sampling_rate_hz": common_rate(columns), "views": self.views}
        if "image" in columns:
            inputs["images"] = np.asarray(columns["image"], dtype=np.float32)
            images = self.processor.image_processor
            if images.takes_csi and "iq" not in columns:
                # Of packets; other rates than the fitted one are converted, as `fit` does.
                rate_hz = common_rate(columns)
                inputs |= {"packet_rate_hz": rate_hz, "resample": bool(rate_hz and images.packet_rate_hz)}
                inputs["unit"] = common_unit(columns)
        if "csi" in columns:
            inputs |= {"csi": columns["csi"], "unit": common_unit(columns)}
            if "iq" not in columns:
                inputs["packet_rate_hz"] = np.asarray(columns.get("sampling_rate_hz", 0.0), dtype=float)
        batch = dict(self.processor(**inputs))
        # Rows of one data set have one shape: nothing is padded, and no mask costs the least.
        batch.pop("iq_attention_mask", None)
        if self.label_column is not None:
            batch["labels"] = torch.as_tensor(np.asarray(columns[self.label_column]))
        return batch


def common_rate(columns: dict) -> float | None:
    """`sampling_rate_hz` of all rows; None where it is not known, or they differ."""
    rates = {float(rate) for rate in columns.get("sampling_rate_hz", [])}
    return rates.pop() or None if len(rates) == 1 else None


def draws_of(columns: dict) -> np.ndarray:
    """One number in [-1, 1) for each row: those of `RowsWithDraws`, or always the same."""
    if "carrier_draw" in columns:
        return np.asarray(columns["carrier_draw"])
    names = zip(columns["recording"], columns["start"])
    return np.array([zlib.crc32(f"{recording}:{start}".encode()) for recording, start in names]) / 2**31 - 1


def shifted_iq(columns: dict, carrier_shift: float, draws: np.ndarray | None = None) -> np.ndarray:
    """`iq` (B, A, T, 2) float32 of a batch, each row moved in frequency by `carrier_shift` times its draw.

    Args:
        carrier_shift: share of the sampling rate.
        draws: (B,) numbers in [-1, 1); those of `draws_of` if not given.
    """
    iq = np.ascontiguousarray(columns["iq"], dtype=np.float32)
    if not carrier_shift:
        return iq
    shifts = carrier_shift * (draws_of(columns) if draws is None else draws)
    return shift_frequency(iq.view(np.complex64)[..., 0], shifts).view(np.float32).reshape(iq.shape)


class RowsWithDraws(torch.utils.data.Dataset):
    """Rows of a map-style data set in which each row has, in every epoch, another draw for its carrier shift.

    Draws follow from seed and epoch alone, which the loader of Accelerate tells by `set_epoch`.
    """

    def __init__(self, rows: Dataset, seed: int):
        self.rows, self.seed = rows, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        self.draws = np.random.default_rng((self.seed, epoch)).uniform(-1, 1, len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict:
        return {**self.rows[indices], "carrier_draw": self.draws[indices]}

    def __getitem__(self, index: int) -> dict:
        return {**self.rows[index], "carrier_draw": self.draws[index]}


def load_splits(
    name: str, streaming: bool = False, keep_in_memory: bool = False, cache_dir: str | None = None
) -> dict[str, Dataset | IterableDataset]:
    """All splits of a data set on disk or on the Hub, in NumPy format, with the columns that training needs.

    Args:
        streaming: rows are read as they come; nothing is copied to the cache first.
        keep_in_memory: of the rows instead of a memory-mapped file.
        cache_dir: instead of that of `datasets`.

    Raises:
        ValueError: no such data set, or one without `iq` and `image`.
    """
    memory = {} if streaming else {"keep_in_memory": keep_in_memory}
    try:
        splits = load_dataset(name, streaming=streaming, cache_dir=cache_dir, **memory)
    except FileNotFoundError as error:
        raise ValueError(f"expected the folder or Hub name of a data set, found none at {name!r}: {error}") from error
    for split, dataset in splits.items():
        known = {*INPUT_COLUMNS, "unit", "label", "position", "sampling_rate_hz", "recording", "group", "start"}
        found = dataset.column_names or list(next(iter(dataset)))  # a stream may not know them beforehand
        columns = [column for column in found if column in known]
        if not set(columns) & set(INPUT_COLUMNS):
            raise ValueError(f"expected a column `iq`, `image` or `csi` in {name}, found {found}")
        splits[split] = dataset.select_columns(columns).with_format("numpy")
    return splits
