"""Spectrograms and CSI -> `pixel_values`."""

import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .feature_extraction_mmwfm import RunningStatistics, check_normalization, check_values, stack_by_shape
from .views_mmwfm import amplitude_db, check_doppler, check_unit, doppler_image, fill_unused, match_rate


class MMWFMImageProcessor(BaseImageProcessor):
    """Turns image-like wireless data (spectrograms in dB, CSI, ...) into the model's input.

    The views of CSI (antennas, subcarriers, packets) come first and in the order given here, then the size, then the
    normalisation, whose statistics `fit` takes after the view.

    Args:
        size: {"height", "width"} to resize to (bicubic, antialiased), 224 x 224 if not given. With `doppler` the
            height is that of the view, and only the time axis is resized.
        keep_size: do not resize.
        normalization: "sample" (zero mean and unit variance over a sample), "dataset" (values scaled from
            [`image_min`, `image_max`] to [0, 1], then standardised per channel with `image_mean` and `image_std`, all
            measured by `fit`) or "none".
        image_min, image_max: range of the raw values.
        image_mean, image_std: one value per channel, of scaled and resized images.
        sample_share: of "dataset", how far mean and variance are those of the sample instead, 0 (not at all) to 1.
        csi_to_db: 20 log10(|values| + 1e-6); complex CSI is taken then, and only then.
        fill_unused_subcarriers: of linear CSI, before `csi_to_db`, which it needs: guards and DC take the values of their
            nearest neighbours in use (see `fill_unused`).
        packet_rate_hz: packets per second that the model was fitted for; None accepts any. Another one is refused, or
            converted along the time axis (in decibels with `csi_to_db`, where the gain control stays removable).
        remove_packet_mean: subtract from each packet of an antenna its mean over the subcarriers; in decibels this
            removes the gain control.
        remove_time_mean: subtract from each subcarrier its mean over time: the static channel.
        doppler: {"num_groups": 14, "window": 32, "bins": 16} or some of these: Doppler over time of groups of
            neighbouring subcarriers, num_groups * bins rows (see `doppler_image`). With 16 bins and patches of 16 rows
            one row of patches is one group. A static channel fills bins 0 and 1 (the Hann window's), unless
            `remove_time_mean`.
        merge_antennas: one channel of Doppler, the mean power over the antennas; else one channel for each.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: dict[str, int] | None = None,
        normalization: str = "sample",
        image_min: float | None = None,
        image_max: float | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        keep_size: bool = False,
        csi_to_db: bool = False,
        fill_unused_subcarriers: bool = False,
        packet_rate_hz: float | None = None,
        remove_packet_mean: bool = False,
        remove_time_mean: bool = False,
        doppler: dict[str, int] | None = None,
        merge_antennas: bool = False,
        sample_share: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_normalization(normalization)
        if packet_rate_hz is not None and not packet_rate_hz > 0:
            raise ValueError(f"`packet_rate_hz`: expected a positive number, found {packet_rate_hz}")
        if size is not None and (not isinstance(size, dict) or set(size) != {"height", "width"}):
            raise ValueError(f"`size`: expected 'height' and 'width', found {size}")
        if fill_unused_subcarriers and not csi_to_db:
            raise ValueError("`fill_unused_subcarriers`: expected `csi_to_db`, which takes linear CSI, found none")
        if not 0 <= sample_share <= 1:
            raise ValueError(f"`sample_share`: expected 0 to 1, found {sample_share}")
        if merge_antennas and doppler is None:
            raise ValueError("`merge_antennas`: expected `doppler`, whose power is averaged, found none")
        self.doppler = doppler if doppler is None else check_doppler(doppler)
        height = 224 if doppler is None else self.doppler["num_groups"] * self.doppler["bins"]
        self.size = None if keep_size else size or {"height": height, "width": 224}
        if doppler is not None and (self.size is None or self.size["height"] != height):
            found = "`keep_size`" if keep_size else size["height"]
            raise ValueError(f"`doppler`: expected a height of {height} = num_groups * bins, found {found}")
        self.keep_size = keep_size
        self.normalization = normalization
        self.image_min = image_min
        self.image_max = image_max
        self.image_mean = image_mean
        self.image_std = image_std
        self.csi_to_db = csi_to_db
        self.fill_unused_subcarriers = fill_unused_subcarriers
        self.packet_rate_hz = packet_rate_hz
        self.remove_packet_mean = remove_packet_mean
        self.remove_time_mean = remove_time_mean
        self.merge_antennas = merge_antennas
        self.sample_share = sample_share

    @property
    def takes_csi(self) -> bool:
        """Whether any view is on."""
        return bool(self.csi_to_db or self.remove_packet_mean or self.remove_time_mean or self.doppler)

    def __call__(
        self,
        images,
        packet_rate_hz: float | None = None,
        resample: bool = False,
        unit: str | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Take the view of images, resize and normalise them.

        Args:
            images: (C, H, W), (B, C, H, W), a PIL image, or a list of (C, H, W) or PIL images of any sizes; NumPy or
                torch. 8-bit images become [0, 1]. CSI is (antennas, subcarriers, packets).
            packet_rate_hz: of this CSI.
            resample: convert to the fitted packet rate instead of refusing another one.
            unit: of these values, "linear" or "db", where it is known; `csi_to_db` refuses what is in dB already.
            return_tensors: "pt" or "np".

        Returns:
            `pixel_values` (B, C, H', W') float32.

        Raises:
            ValueError: wrong rank or type, empty, NaN or Inf, unequal channels, unequal sizes without `size`,
                another packet rate, CSI that the view cannot take, a second conversion to dB.
        """
        groups = self.read(images, packet_rate_hz, resample, unit)
        groups = [(rows, self.normalize(self.resize(values))) for rows, values in groups]
        shapes = {tuple(values.shape[1:]) for _, values in groups}
        if len(shapes) > 1:
            raise ValueError(f"`images`: expected one channel count and size, found (C, H, W) {sorted(shapes)}")
        pixel_values = groups[0][1]
        if len(groups) > 1:
            pixel_values = pixel_values.new_empty(sum(len(rows) for rows, _ in groups), *shapes.pop())
            for rows, values in groups:
                pixel_values[rows] = values
        return BatchFeature({"pixel_values": pixel_values}).convert_to_tensors(return_tensors)

    def measure(self, images, statistics: RunningStatistics, **options):
        """Add images, as for a call, to the statistics: range before, moments after resizing, both of the view."""
        for _, values in self.read(images, **options):
            statistics.low = min(statistics.low, values.min().item())
            statistics.high = max(statistics.high, values.max().item())
            statistics.add(self.resize(values).movedim(1, -1).flatten(0, -2))

    def set_statistics(self, statistics: RunningStatistics):
        low, span = statistics.low, statistics.high - statistics.low
        self.image_mean, self.image_std = ((statistics.mean - low) / span).tolist(), (statistics.std / span).tolist()
        self.image_min, self.image_max = statistics.low, statistics.high

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) float32 -> the same, normalised."""
        if self.normalization == "sample":
            # In two passes, which `torch.std_mean` takes several times as long for.
            values = values - values.mean((1, 2, 3), keepdim=True)
            std = values.square().mean((1, 2, 3), keepdim=True).sqrt()
            return values.div_(std.clamp(min=torch.finfo(torch.float32).tiny))
        if self.normalization == "dataset":
            if self.image_mean is None or self.image_std is None:
                raise ValueError("normalization 'dataset': expected fitted statistics, call `fit(dataset)` first")
            if len(self.image_mean) != values.shape[1]:
                raise ValueError(
                    f"`images`: expected the {len(self.image_mean)} channels that this processor was fitted for, "
                    f"found {values.shape[1]}"
                )
            mean, std = (values.new_tensor(numbers)[:, None, None] for numbers in (self.image_mean, self.image_std))
            low = 0.0 if self.image_min is None else self.image_min
            span = 1.0 if self.image_max is None else self.image_max - low
            values = ((values - low) / span - mean) / std
            if self.sample_share:
                variance, mean = torch.var_mean(values, (1, 2, 3), correction=0, keepdim=True)
                values = (values - self.sample_share * mean) / torch.lerp(
                    torch.ones_like(variance), variance, self.sample_share
                ).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return values

    def resize(self, values: torch.Tensor) -> torch.Tensor:
        if self.size is None or values.shape[-2:] == (self.size["height"], self.size["width"]):
            return values
        size = (self.size["height"], self.size["width"])
        return torch.nn.functional.interpolate(values, size, mode="bicubic", antialias=True, align_corners=False)

    def view(self, values: torch.Tensor, packet_rate_hz: float | None, resample: bool) -> torch.Tensor:
        """(B, antennas, subcarriers, packets) -> what the model sees of it."""
        if self.csi_to_db:
            values = amplitude_db(fill_unused(values) if self.fill_unused_subcarriers else values)
        values = match_rate(values, self.packet_rate_hz, packet_rate_hz, resample, "packet_rate_hz")
        if self.remove_packet_mean and values.shape[2] > 1:  # of one subcarrier nothing would be left
            values = values - values.mean(2, keepdim=True)
        if self.remove_time_mean:
            values = values - values.mean(3, keepdim=True)
        if self.doppler is not None:
            values = doppler_image(values, self.size["width"], **self.doppler, merge_antennas=self.merge_antennas)
        return values

    def read(self, images, packet_rate_hz=None, resample=False, unit=None) -> list[tuple[list[int], torch.Tensor]]:
        """Checked images in their view, grouped by shape: [(positions in the batch, (B, C, H, W) float32), ...]."""
        check_unit(unit)
        if unit == "db" and self.csi_to_db:
            raise ValueError("`csi_to_db`: expected linear CSI, found values that are in dB already")
        from_list = isinstance(images, (list, tuple))
        images = [from_pil(image) for image in images] if from_list else from_pil(images)
        groups = []
        for rows, values in stack_by_shape(images, "images"):
            rank = values.ndim - from_list
            if rank != 3 and (from_list or rank != 4) or values.is_complex() and not self.csi_to_db:
                expected = "a list of (C, H, W)" if from_list else "(C, H, W) or (B, C, H, W)"
                kind = "numbers" if self.csi_to_db else "real values"
                raise ValueError(
                    f"`images`: expected {expected} of {kind}, found {values.dtype} of shape "
                    f"{tuple(values.shape[from_list:])}"
                )
            if not from_list and rank == 3:
                rows, values = [0], values.unsqueeze(0)
            if values.dtype == torch.uint8:
                values = values / 255
            values = values.to(torch.complex64 if values.is_complex() else torch.float32)
            check_values(values, "images")
            groups.append((rows, self.view(values, packet_rate_hz, resample)))
        return groups


def from_pil(image):
    """PIL image -> (C, H, W) array; anything else unchanged."""
    if not hasattr(image, "getbands"):
        return image
    array = np.asarray(image.convert("L") if image.mode == "1" else image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
