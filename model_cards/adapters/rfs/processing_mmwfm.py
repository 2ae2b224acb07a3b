"""What users call: IQ and images in, tensors for the model out."""

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .feature_extraction_mmwfm import MMWFMFeatureExtractor, RunningStatistics, as_tensor
from .image_processing_mmwfm import MMWFMImageProcessor
from .views_mmwfm import PACKET_RATE_TOLERANCE, check_unit, find_unit, linear_csi

logger = logging.get_logger(__name__)

KINDS = ("iq", "images", "csi")
# What a processor makes of CSI if it is not told otherwise: Doppler without gain control and static channel. Half of the
# statistics are fixed, so that how much moves stays visible: the sample's own would hide it, and fixed ones alone fail on a
# chip that was never seen. The card of the released model has the measurements.
CSI_VIEW = {
    "csi_to_db": True,
    "fill_unused_subcarriers": True,
    "remove_packet_mean": True,
    "remove_time_mean": True,
    "doppler": {"num_groups": 7, "window": 32, "bins": 16},
    "merge_antennas": True,
    "size": {"height": 112, "width": 128},
    "normalization": "dataset",
    "image_mean": [1.228],
    "image_std": [9.106],
    "sample_share": 0.5,
}
OTHER_PACKET_RATE = 0.25  # of the fitted one: beyond it the same movement lies in other bins


class MMWFMProcessor(ProcessorMixin):
    """IQ (`feature_extractor`), image-like data (`image_processor`) and CSI (`csi_processor`) in one call.

    Args:
        feature_extractor, image_processor: made with their defaults if not given.
        normalization: sets that of both: "dataset", "sample" or "none".
        csi_processor: an `MMWFMImageProcessor` with views of CSI, or its settings; `CSI_VIEW` if not given.
        iq_views: what is made of IQ: "iq", "spectrogram" or both, as the model was trained.
        kind: "iq", "images" or "csi", the one input of the model that this processor is saved with; None: any.
    """

    def __init__(
        self,
        feature_extractor=None,
        image_processor=None,
        normalization: str | None = None,
        csi_processor=None,
        iq_views: list[str] | tuple[str, ...] = ("iq",),
        kind: str | None = None,
        **kwargs,
    ):
        settings = {} if normalization is None else {"normalization": normalization}
        feature_extractor = feature_extractor or MMWFMFeatureExtractor(**settings)
        image_processor = image_processor or MMWFMImageProcessor(**settings)
        super().__init__(feature_extractor, image_processor, **kwargs)
        if csi_processor is None or isinstance(csi_processor, dict):
            csi_processor = MMWFMImageProcessor.from_dict(dict(csi_processor or CSI_VIEW))
        check_iq_views(iq_views)
        if kind is not None and kind not in KINDS:
            raise ValueError(f"`kind`: expected {', '.join(KINDS)} or None, found {kind!r}")
        self.csi_processor = csi_processor
        self.iq_views = list(iq_views)
        self.kind = kind

    @property
    def model_input_names(self) -> list[str]:
        return self.feature_extractor.model_input_names + self.image_processor.model_input_names

    def __call__(
        self,
        iq=None,
        images=None,
        csi=None,
        sampling_rate_hz: float | None = None,
        views: tuple[str, ...] | None = None,
        iq_format: dict[str, float] | None = None,
        resample: bool = False,
        packet_rate_hz=None,
        unit: str | None = None,
        return_carrier_offset: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare IQ, images or CSI, or IQ with one of the others.

        Args:
            iq, sampling_rate_hz, iq_format, return_carrier_offset: see `MMWFMFeatureExtractor`.
            images: see `MMWFMImageProcessor`.
            csi: complex or amplitude, (subcarriers, packets), (antennas, subcarriers, packets), a batch of the latter
                or a list of the first two; any number of each.
            packet_rate_hz: of images that are CSI, or of the CSI, then also one for each. CSI of another rate than the
                fitted one is taken as it is, with a warning where they differ much: converted packets have no Doppler
                above their old rate, which costs more than the other scale. `resample` converts.
            unit: of the CSI: "linear" or "db"; None: dB if values are negative, else linear. Of images see there.
            resample: convert to the fitted rates instead of refusing others. Of `iq` and `images` or `csi` together, only
                that whose rate is given, unless none is.
            views: what to make of the IQ: "iq", "spectrogram" (then in `pixel_values`) or both; default: `iq_views`.
            return_tensors: "pt" or "np".

        Returns:
            `iq_values` (B, A, 2, T), `iq_attention_mask` (B, A, T), `pixel_values` (B, C, H, W), as far as given, and
            `carrier_offset_hz` (B,) on request.

        Raises:
            ValueError: no input, unknown views, two of images, CSI and the spectrogram view, the spectrogram view for an
                `image_processor` with a view of CSI, or input that a part refuses.
        """
        if iq is None and images is None and csi is None:
            raise ValueError("expected `iq`, `images` or `csi`, found none of them")
        if images is not None and csi is not None:
            raise ValueError("expected `images` or `csi`, found both")
        views = self.iq_views if views is None else views
        check_iq_views(views, "views")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"`return_tensors`: expected 'pt' or 'np', found {return_tensors!r}")
        if return_carrier_offset and (iq is None or "iq" not in views):
            raise ValueError("`return_carrier_offset`: expected `iq` and its 'iq' view, found none")
        alone = iq is None or (images is None and csi is None) or sampling_rate_hz is None and packet_rate_hz is None
        recording = (iq, sampling_rate_hz, iq_format, resample and (alone or sampling_rate_hz is not None))
        series = {"packet_rate_hz": packet_rate_hz, "resample": resample and (alone or packet_rate_hz is not None)}
        data = {}
        if iq is not None and "iq" in views:
            data.update(
                self.feature_extractor(
                    *recording, return_carrier_offset=return_carrier_offset, return_tensors=return_tensors
                )
            )
        if iq is not None and "spectrogram" in views:
            if images is not None or csi is not None:
                raise ValueError("expected `images`, `csi` or the 'spectrogram' view of `iq`, found two of them")
            if self.image_processor.takes_csi:
                raise ValueError("expected an `image_processor` without views of CSI for the 'spectrogram' view")
            images, series, unit = self.feature_extractor.spectrogram(*recording), {}, None
        if images is not None:
            data.update(self.image_processor(images, **series, unit=unit, return_tensors=return_tensors))
        if csi is not None:
            pixel_values = self.prepare_csi(csi, packet_rate_hz, unit, series["resample"])
            data["pixel_values"] = pixel_values if return_tensors == "pt" else pixel_values.numpy()
        return BatchFeature(data)

    def prepare_csi(self, csi, packet_rate_hz=None, unit: str | None = None, resample: bool = False) -> torch.Tensor:
        """`csi`, as for a call, -> (B, C, H, W) float32; one packet rate for all or one for each, 0: not known."""
        values, fitted_hz = as_csi(csi, unit), self.csi_processor.packet_rate_hz
        if not isinstance(values, list):
            values = values if values.ndim == 4 else values[None]
        rates = np.asarray(0.0 if packet_rate_hz is None else packet_rate_hz, dtype=float)
        if not resample:
            known = rates[rates > 0]
            if fitted_hz and known.size and np.abs(known / fitted_hz - 1).max() > OTHER_PACKET_RATE:
                logger.warning_once(f"CSI of {known.max():g} packets/s for a model that was fitted for {fitted_hz:g}")
            return self.csi_processor(values, packet_rate_hz=fitted_hz)["pixel_values"]
        rates, pixel_values = np.broadcast_to(rates, (len(values),)), [None] * len(values)
        for rate_hz in np.unique(rates):
            rows = np.flatnonzero(rates == rate_hz).tolist()
            options = {"packet_rate_hz": float(rate_hz) or None, "resample": True}
            for row, image in zip(rows, self.csi_processor([values[row] for row in rows], **options)["pixel_values"]):
                pixel_values[row] = image
        return torch.stack(pixel_values)

    def spectrogram(self, iq, sampling_rate_hz: float | None = None, **kwargs) -> torch.Tensor | list[torch.Tensor]:
        """The image-like view of a recording in dB, not yet normalised: see `MMWFMFeatureExtractor.spectrogram`."""
        return self.feature_extractor.spectrogram(iq, sampling_rate_hz, **kwargs)

    def fit(self, dataset, batch_size: int = 64) -> "MMWFMProcessor":
        """Measure the statistics of "dataset" normalisation, and the rates, in one pass.

        Args:
            dataset: a `datasets.Dataset` or any iterable of rows, with a column `iq`, `image`, `csi` or several, and
                optionally `sampling_rate_hz`, `packet_rate_hz` (0: not known) and `unit`. Where there is no `iq`,
                `sampling_rate_hz` of CSI, and of images with a view of CSI, is the packet rate. The view of CSI is
                measured only if it has no statistics yet.
            batch_size: rows read at a time.

        Data of several rates, or of an unknown one, pin the processor to none. A packet rate that is set already
        stays, and images of other rates are converted to it.
        """
        if hasattr(dataset, "with_format") and hasattr(dataset, "iter"):
            batches = dataset.with_format("numpy").iter(batch_size)
        else:
            batches = ({column: [value] for column, value in row.items()} for row in dataset)
        statistics, rates, packet_rates, csi_rates = {}, set(), set(), set()
        for batch in batches:
            if "iq" in batch:
                values = batch["iq"]
                measured = statistics.setdefault("iq", RunningStatistics())
                self.feature_extractor.measure(list(values) if is_list(values) else values, measured)
                rates.update(float(rate) for rate in batch.get("sampling_rate_hz", []))
            if "image" in batch:
                measured = statistics.setdefault("image", RunningStatistics())
                packet_rates |= self.measure_images(batch, measured)
            if "csi" in batch:
                measured = statistics.setdefault("csi", RunningStatistics())
                csi_rates.update(float(rate) for rate in batch.get("sampling_rate_hz", []))
                if self.csi_processor.normalization == "dataset" and self.csi_processor.image_mean is None:
                    self.measure_csi(batch, measured)
        if not statistics:
            raise ValueError("expected rows with a column `iq`, `image` or `csi`, found none")
        if "csi" in statistics and statistics["csi"].count:
            self.csi_processor.set_statistics(statistics["csi"])
        if "iq" not in statistics and csi_rates and min(csi_rates) > 0:
            if max(csi_rates) / min(csi_rates) - 1 <= OTHER_PACKET_RATE:
                self.csi_processor.packet_rate_hz = float(np.median(list(csi_rates)))
        if "iq" in statistics:
            self.feature_extractor.set_statistics(statistics["iq"])
            self.feature_extractor.sampling_rate_hz = rates.pop() or None if len(rates) == 1 else None
        if "image" in statistics:
            self.image_processor.set_statistics(statistics["image"])
            known = packet_rates and min(packet_rates) > 0
            if known and max(packet_rates) / min(packet_rates) - 1 <= PACKET_RATE_TOLERANCE:
                self.image_processor.packet_rate_hz = self.image_processor.packet_rate_hz or max(packet_rates)
        return self

    def measure_images(self, batch: dict, statistics: RunningStatistics) -> set[float]:
        """Add the images of a batch to the statistics, at the fitted packet rate; -> their packet rates."""
        values, rates = batch["image"], batch.get("packet_rate_hz")
        if rates is None and "iq" not in batch and self.image_processor.takes_csi:
            rates = batch.get("sampling_rate_hz")
        rates = [0.0] * len(values) if rates is None else [float(rate) for rate in rates]
        fitted = self.image_processor.packet_rate_hz
        for rate in sorted(set(rates)):
            part = values
            if is_list(values) or len(set(rates)) > 1:
                part = [value for value, own in zip(values, rates) if own == rate]
            options = {"packet_rate_hz": rate or None, "resample": bool(fitted and rate)}
            self.image_processor.measure(part, statistics, **options, unit=common_unit(batch))
        return set(rates)

    def measure_csi(self, batch: dict, statistics: RunningStatistics):
        """Add the CSI of a batch to the statistics."""
        for value in batch["csi"]:
            self.csi_processor.measure(as_csi(value, common_unit(batch)), statistics)


def is_list(values) -> bool:
    """Samples of unequal shapes, or read one by one."""
    return isinstance(values, list) or values.dtype == object


def check_iq_views(views, name: str = "iq_views"):
    if not views or not set(views) <= {"iq", "spectrogram"}:
        raise ValueError(f"`{name}`: expected 'iq', 'spectrogram' or both, found {views}")


def common_unit(columns: dict) -> str | None:
    """`unit` of all rows; None where it is not known, or they differ."""
    units = {str(unit) for unit in columns.get("unit", [])}
    return units.pop() or None if len(units) == 1 else None


def as_csi(csi, unit: str | None = None) -> torch.Tensor | list[torch.Tensor]:
    """CSI as `MMWFMProcessor` takes it -> linear (B, A, subcarriers, packets), or a list of (A, subcarriers, packets).

    Raises:
        ValueError: another rank.
    """
    from_list = isinstance(csi, (list, tuple))
    values = [as_tensor(value, "csi") for value in (csi if from_list else [csi])]
    for value in values:
        if value.ndim not in ((2, 3) if from_list else (2, 3, 4)):
            raise ValueError(
                "`csi`: expected (subcarriers, packets), (antennas, subcarriers, packets), a batch of the latter or a list "
                f"of these, found {value.dtype} of shape {tuple(value.shape)}"
            )
    if not values or min(value.numel() for value in values) == 0:
        raise ValueError("`csi`: expected at least one value, found none")
    check_unit(unit)
    unit = unit or find_unit(values)
    values = [linear_csi(value[None] if value.ndim == 2 else value, unit) for value in values]
    return values if from_list else values[0]
