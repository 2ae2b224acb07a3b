"""How a recipe says what the processor makes of its data."""

import math
from dataclasses import dataclass, field

from .feature_extraction_mmwfm import MMWFMFeatureExtractor
from .image_processing_mmwfm import MMWFMImageProcessor
from .processing_mmwfm import MMWFMProcessor

# Options of IQ -> their names in the feature extractor.
IQ_OPTIONS = {
    "center_carrier": "center_carrier",
    "spectrogram_fft": "n_fft",
    "spectrogram_hop": "hop_length",
    "center_peak": "center_peak",
}

# What an image processor keeps when others of its options change.
KEPT = (
    "normalization",
    "csi_to_db",
    "fill_unused_subcarriers",
    "packet_rate_hz",
    "remove_packet_mean",
    "remove_time_mean",
    "doppler",
    "merge_antennas",
    "sample_share",
)


@dataclass
class TaskArguments:
    model: str = field(metadata={"help": "pretrained checkpoint: folder or Hub name"})
    dataset: str = field(metadata={"help": "folder or Hub name of the labelled set"})


@dataclass
class InputArguments:
    """Departures from the checkpoint's processor; what is not given stays as it is there."""

    normalization: str | None = field(
        default=None,
        metadata={
            "choices": ["dataset", "sample", "none"],
            "help": "of IQ and images, or CSI; 'dataset' is measured anew on the training split",
        },
    )
    center_carrier: bool | None = field(default=None, metadata={"help": "move the carrier of IQ to 0 Hz"})
    spectrogram_fft: int | None = field(default=None, metadata={"help": "samples of a frame of IQ's spectrogram view"})
    spectrogram_hop: int | None = field(default=None, metadata={"help": "samples between its frames"})
    center_peak: bool | None = field(default=None, metadata={"help": "its rows count from the strongest one"})
    csi_to_db: bool | None = field(default=None, metadata={"help": "CSI, complex or linear amplitude, to dB"})
    fill_unused_subcarriers: bool | None = field(
        default=None, metadata={"help": "guards and DC of linear CSI take the values of their neighbours"}
    )
    remove_packet_mean: bool | None = field(default=None, metadata={"help": "take the gain control out of CSI in dB"})
    remove_time_mean: bool | None = field(default=None, metadata={"help": "take the static channel out of CSI"})
    packet_rate_hz: float | None = field(
        default=None, metadata={"help": "convert CSI to this packet rate; rows that name none are taken for it"}
    )
    doppler_groups: int | None = field(
        default=None, metadata={"help": "Doppler over time of so many groups of CSI subcarriers, 16 rows each"}
    )
    merge_antennas: bool | None = field(default=None, metadata={"help": "one channel of Doppler for all antennas"})
    image_height: int | None = field(default=None, metadata={"help": "of resized images; with Doppler it is given"})
    image_width: int | None = None


def given(inputs: InputArguments) -> dict:
    """The options that were given."""
    return {name: value for name, value in vars(inputs).items() if value is not None}


def adapt_processor(processor: MMWFMProcessor, inputs: InputArguments, rows) -> MMWFMProcessor:
    """A checkpoint's processor -> that of a data set, fitted to its training rows. Options of images concern CSI where the
    rows hold it.

    Raises:
        ValueError: options that do not go together, or rows that cannot be seen so.
    """
    options = given(inputs)
    if "csi" in rows.column_names and any(name not in IQ_OPTIONS for name in options):
        own = {name: options.pop(name) for name in list(options) if name not in IQ_OPTIONS}
        processor.csi_processor = adapt_image_processor(processor.csi_processor, own)
    if normalization := options.pop("normalization", None):
        processor.feature_extractor.normalization = processor.image_processor.normalization = normalization
    for option, name in IQ_OPTIONS.items():
        if option in options:
            setattr(processor.feature_extractor, name, options.pop(option))
    if options:
        processor.image_processor = adapt_image_processor(processor.image_processor, options)
    return processor.fit(rows)


def adapt_image_processor(found: MMWFMImageProcessor, options: dict) -> MMWFMImageProcessor:
    """The same with other options, those of `InputArguments` that concern images; its statistics are left behind."""
    options = dict(options)
    settings = {name: getattr(found, name) for name in KEPT}
    if groups := options.pop("doppler_groups", None):
        settings["doppler"] = {"num_groups": groups, "window": 32, "bins": 16}
    size = dict(found.size or {"height": 224, "width": 224})
    if settings["doppler"] is not None:
        size["height"] = settings["doppler"]["num_groups"] * settings["doppler"]["bins"]
    given_size = {side: options.pop(f"image_{side}") for side in size if f"image_{side}" in options}
    if found.keep_size and not given_size and settings["doppler"] is None:
        return MMWFMImageProcessor(keep_size=True, **settings | options)
    return MMWFMImageProcessor(size=size | given_size, **settings | options)


def pretraining_processors(data) -> tuple[MMWFMProcessor, MMWFMProcessor]:
    """The model's own, which is saved with it, and that of its source of CSI, whose rows are images.

    Args:
        data: keys of `training_scripts/pretrain.py`.
    """
    size = {"height": data.image_height, "width": data.image_width}
    views = {name: getattr(data, option) for option, name in IQ_OPTIONS.items()}
    processor = MMWFMProcessor(
        MMWFMFeatureExtractor(normalization=data.normalization, **views),
        MMWFMImageProcessor(size=size, normalization=data.normalization),
    )
    names = {"csi_width": "image_width"}
    keys = ("csi_doppler_groups", "csi_normalization", "csi_width", "csi_remove_time_mean")
    options = {names.get(key, key.removeprefix("csi_")): getattr(data, key) for key in keys}
    options = {name: value for name, value in options.items() if value is not None}
    csi = adapt_image_processor(processor.csi_processor, options) if options else processor.csi_processor
    return processor, MMWFMProcessor(MMWFMFeatureExtractor(normalization=data.normalization), csi)


def fit_processors(data, train: dict, iq_views: list[str]) -> tuple[MMWFMProcessor, MMWFMProcessor]:
    """Those of `pretraining_processors`, fitted to part of the training rows.

    Args:
        train: source -> rows, or a stream of them.
    """
    processor, csi_processor = pretraining_processors(data)
    processor.iq_views = list(iq_views)
    if "csi" in train:
        processor.csi_processor = csi_processor.image_processor
    for source, rows in reversed(train.items()):  # of both sets of IQ the statistics are those of `iq`
        if data.streaming:
            rows = rows.take(data.statistics_samples)
        else:
            rows = rows.select(range(0, len(rows), math.ceil(len(rows) / data.statistics_samples)))
        if source != "csi":
            processor.fit(rows)
        elif csi_processor.image_processor.image_mean is None:  # the usual view has constants
            csi_processor.fit(rows)
    return processor, csi_processor
