"""What users call: IQ and images in, tensors for the model out."""

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .feature_extraction_mmwfm import MMWFMFeatureExtractor, RunningStatistics
from .image_processing_mmwfm import MMWFMImageProcessor


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
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare IQ, images or both.

        Args:
            iq, sampling_rate_hz, iq_format, resample: see `MMWFMFeatureExtractor`.
            images: see `MMWFMImageProcessor`.
            views: what to make of the IQ: "iq", "spectrogram" (then in `pixel_values`) or both.
            return_tensors: "pt" or "np".

        Returns:
            `iq_values` (B, A, 2, T), `iq_attention_mask` (B, A, T), `pixel_values` (B, C, H, W), as far as given.

        Raises:
            ValueError: no input, unknown views, images beside the spectrogram view, or input that a part refuses.
        """
        if iq is None and images is None:
            raise ValueError("expected `iq`, `images` or both, found neither")
        if not views or not set(views) <= {"iq", "spectrogram"}:
            raise ValueError(f"`views`: expected 'iq', 'spectrogram' or both, found {views}")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"`return_tensors`: expected 'pt' or 'np', found {return_tensors!r}")
        recording = (iq, sampling_rate_hz, iq_format, resample)
        data = {}
        if iq is not None and "iq" in views:
            data.update(self.feature_extractor(*recording, return_tensors=return_tensors))
        if iq is not None and "spectrogram" in views:
            if images is not None:
                raise ValueError("expected `images` or the 'spectrogram' view of `iq`, found both")
            images = self.feature_extractor.spectrogram(*recording)
        if images is not None:
            data.update(self.image_processor(images, return_tensors=return_tensors))
        return BatchFeature(data)

    def spectrogram(self, iq, sampling_rate_hz: float | None = None, **kwargs) -> torch.Tensor | list[torch.Tensor]:
        """The image-like view of a recording in dB, not yet normalised: see `MMWFMFeatureExtractor.spectrogram`."""
        return self.feature_extractor.spectrogram(iq, sampling_rate_hz, **kwargs)

    def fit(self, dataset, batch_size: int = 64) -> "MMWFMProcessor":
        """Measure the statistics of "dataset" normalisation, and the sampling rate, in one pass.

        Args:
            dataset: a `datasets.Dataset` or any iterable of rows, with a column `iq`, `image` or both, and optionally
                `sampling_rate_hz` (0: not known).
            batch_size: rows read at a time.
        """
        if hasattr(dataset, "with_format") and hasattr(dataset, "iter"):
            batches = dataset.with_format("numpy").iter(batch_size)
        else:
            batches = ({column: [value] for column, value in row.items()} for row in dataset)
        parts = {"iq": self.feature_extractor, "image": self.image_processor}
        statistics, rates = {}, set()
        for batch in batches:
            for column in parts.keys() & batch.keys():
                values = batch[column]
                is_list = isinstance(values, list) or values.dtype == object
                parts[column].measure(
                    list(values) if is_list else values, statistics.setdefault(column, RunningStatistics())
                )
            rates.update(float(rate) for rate in batch.get("sampling_rate_hz", []))
        if not statistics:
            raise ValueError("expected rows with a column `iq` or `image`, found none")
        for column, measured in statistics.items():
            parts[column].set_statistics(measured)
        # Data of several rates, or of an unknown one, pin the processor to none.
        if "iq" in statistics:
            self.feature_extractor.sampling_rate_hz = rates.pop() or None if len(rates) == 1 else None
        return self
