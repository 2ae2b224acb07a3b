"""What users call: IQ and images in, tensors for the model out."""

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .feature_extraction_mmwfm import MMWFMFeatureExtractor, RunningStatistics
from .image_processing_mmwfm import MMWFMImageProcessor
from .views_mmwfm import PACKET_RATE_TOLERANCE


class MMWFMProcessor(ProcessorMixin):
    """IQ (`feature_extractor`) and image-like data (`image_processor`) in one call.

    Args:
        feature_extractor, image_processor: made with their defaults if not given.
        normalization: sets that of both: "dataset", "sample" or "none".
    """

    def __init__(self, feature_extractor=None, image_processor=None, normalization: str | None = None, **kwargs):
        settings = {} if normalization is None else {"normalization": normalization}
        feature_extractor = feature_extractor or MMWFMFeatureExtractor(**settings)
        image_processor = image_processor or MMWFMImageProcessor(**settings)
        super().__init__(feature_extractor, image_processor, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return self.feature_extractor.model_input_names + self.image_processor.model_input_names

    def __call__(
        self,
        iq=None,
        images=None,
        sampling_rate_hz: float | None = None,
        views: tuple[str, ...] = ("iq",),
        iq_format: dict[str, float] | None = None,
        resample: bool = False,
        packet_rate_hz: float | None = None,
        return_carrier_offset: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare IQ, images or both.

        Args:
            iq, sampling_rate_hz, iq_format, return_carrier_offset: see `MMWFMFeatureExtractor`.
            images, packet_rate_hz: see `MMWFMImageProcessor`.
            resample: convert to the fitted rates instead of refusing others. Of `iq` and `images` together, only that
                whose rate is given, unless none is.
            views: what to make of the IQ: "iq", "spectrogram" (then in `pixel_values`) or both.
            return_tensors: "pt" or "np".

        Returns:
            `iq_values` (B, A, 2, T), `iq_attention_mask` (B, A, T), `pixel_values` (B, C, H, W), as far as given, and
            `carrier_offset_hz` (B,) on request.

        Raises:
            ValueError: no input, unknown views, images beside the spectrogram view, the spectrogram view for an
                `image_processor` with a view of CSI, or input that a part refuses.
        """
        if iq is None and images is None:
            raise ValueError("expected `iq`, `images` or both, found neither")
        if not views or not set(views) <= {"iq", "spectrogram"}:
            raise ValueError(f"`views`: expected 'iq', 'spectrogram' or both, found {views}")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"`return_tensors`: expected 'pt' or 'np', found {return_tensors!r}")
        if return_carrier_offset and (iq is None or "iq" not in views):
            raise ValueError("`return_carrier_offset`: expected `iq` and its 'iq' view, found none")
        alone = iq is None or images is None or sampling_rate_hz is None and packet_rate_hz is None
        recording = (iq, sampling_rate_hz, iq_format, resample and (alone or sampling_rate_hz is not None))
        csi = {"packet_rate_hz": packet_rate_hz, "resample": resample and (alone or packet_rate_hz is not None)}
        data = {}
        if iq is not None and "iq" in views:
            data.update(
                self.feature_extractor(
                    *recording, return_carrier_offset=return_carrier_offset, return_tensors=return_tensors
                )
            )
        if iq is not None and "spectrogram" in views:
            if images is not None:
                raise ValueError("expected `images` or the 'spectrogram' view of `iq`, found both")
            if self.image_processor.takes_csi:
                raise ValueError("expected an `image_processor` without views of CSI for the 'spectrogram' view")
            images, csi = self.feature_extractor.spectrogram(*recording), {}
        if images is not None:
            data.update(self.image_processor(images, **csi, return_tensors=return_tensors))
        return BatchFeature(data)

    def spectrogram(self, iq, sampling_rate_hz: float | None = None, **kwargs) -> torch.Tensor | list[torch.Tensor]:
        """The image-like view of a recording in dB, not yet normalised: see `MMWFMFeatureExtractor.spectrogram`."""
        return self.feature_extractor.spectrogram(iq, sampling_rate_hz, **kwargs)

    def fit(self, dataset, batch_size: int = 64) -> "MMWFMProcessor":
        """Measure the statistics of "dataset" normalisation, and the rates, in one pass.

        Args:
            dataset: a `datasets.Dataset` or any iterable of rows, with a column `iq`, `image` or both, and optionally
                `sampling_rate_hz` and `packet_rate_hz` (0: not known). Where there is no `iq` and the images have a
                view of CSI, `sampling_rate_hz` is the packet rate.
            batch_size: rows read at a time.

        Data of several rates, or of an unknown one, pin the processor to none. A packet rate that is set already
        stays, and images of other rates are converted to it.
        """
        if hasattr(dataset, "with_format") and hasattr(dataset, "iter"):
            batches = dataset.with_format("numpy").iter(batch_size)
        else:
            batches = ({column: [value] for column, value in row.items()} for row in dataset)
        statistics, rates, packet_rates = {}, set(), set()
        for batch in batches:
            if "iq" in batch:
                values = batch["iq"]
                measured = statistics.setdefault("iq", RunningStatistics())
                self.feature_extractor.measure(list(values) if is_list(values) else values, measured)
                rates.update(float(rate) for rate in batch.get("sampling_rate_hz", []))
            if "image" in batch:
                measured = statistics.setdefault("image", RunningStatistics())
                packet_rates |= self.measure_images(batch, measured)
        if not statistics:
            raise ValueError("expected rows with a column `iq` or `image`, found none")
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
            self.image_processor.measure(part, statistics, rate or None, resample=bool(fitted and rate))
        return set(rates)


def is_list(values) -> bool:
    """Samples of unequal shapes, or read one by one."""
    return isinstance(values, list) or values.dtype == object
