"""IQ recordings -> `iq_values` and `iq_attention_mask`, and the spectrogram view of a recording."""

from collections import defaultdict

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .views_mmwfm import carrier_offset, center_peak, match_rate, shift_frequency


def check_normalization(normalization: str):
    if normalization not in ("dataset", "sample", "none"):
        raise ValueError(f"`normalization`: expected 'dataset', 'sample' or 'none', found {normalization!r}")


def as_tensor(array, name: str) -> torch.Tensor:
    """NumPy array, torch tensor or nested numbers -> tensor, without a copy where possible."""
    if isinstance(array, torch.Tensor):
        if array.dtype == torch.bool:
            raise ValueError(f"`{name}`: expected numbers, found a tensor of {array.dtype}")
        return array.detach()
    array = np.asarray(array)
    if array.dtype.kind not in "iufc":
        raise ValueError(f"`{name}`: expected numbers, found an array of {array.dtype}")
    # torch takes native byte order, positive strides and at most 64 bits; it warns about read-only memory.
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind == "c" and array.dtype.itemsize > 16:
        array = array.astype(np.complex128)
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
    return torch.from_numpy(array)


def stack_by_shape(arrays, name: str) -> list[tuple[list[int], torch.Tensor]]:
    """A batch, or a list of samples -> [(positions, stacked samples of one shape and type), ...]."""
    if not isinstance(arrays, (list, tuple)):
        batch = as_tensor(arrays, name)
        return [(list(range(len(batch) if batch.ndim else 0)), batch)]
    if len(arrays) == 0:
        raise ValueError(f"`{name}`: expected at least one sample, found an empty list")
    groups = defaultdict(lambda: ([], []))
    for position, array in enumerate(arrays):
        tensor = as_tensor(array, name)
        positions, tensors = groups[tensor.shape, tensor.dtype]
        positions.append(position)
        tensors.append(tensor)
    return [(positions, torch.stack(tensors)) for positions, tensors in groups.values()]


def check_values(values: torch.Tensor, name: str):
    if values.numel() == 0:
        raise ValueError(f"`{name}`: expected at least one value on each axis, found shape {tuple(values.shape)}")
    parts = torch.view_as_real(values) if values.is_complex() else values
    # A finite sum has finite terms and costs a fiftieth of a look at each; one that is not may have overflowed.
    if not parts.sum().isfinite() and not torch.isfinite(parts).all():
        raise ValueError(f"`{name}`: expected finite values, found NaN or Inf")


class RunningStatistics:
    """Mean, standard deviation and range of columns, in one pass and in float64."""

    def __init__(self):
        self.count, self.total, self.square = 0, 0.0, 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, values: torch.Tensor):
        """(rows, columns)"""
        values = values.double()
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.square = self.square + values.square().sum(0)

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.count

    @property
    def std(self) -> torch.Tensor:
        variance = self.square / self.count - self.mean.square()
        if not (variance > 0).all():
            raise ValueError("expected a data set whose values vary, found a constant column")
        return variance.sqrt()


def full_scale(values: torch.Tensor, iq_format: dict[str, float] | None) -> torch.Tensor:
    """Complex, or real with a last axis of I and Q -> complex64; integers become (raw - offset) * scale."""
    if values.is_complex():
        return values.to(torch.complex64)
    if values.ndim < 2 or values.shape[-1] != 2:
        raise ValueError(
            "`iq`: expected complex values, or real ones with a last axis of I and Q, "
            f"found {values.dtype} of shape {tuple(values.shape)}"
        )
    if not values.is_floating_point():
        if iq_format is None:
            limits = torch.iinfo(values.dtype)
            if limits.bits == 64:
                raise ValueError(
                    "`iq`: expected integers of at most 32 bits or an `iq_format` with scale and offset, "
                    f"found {values.dtype}"
                )
            iq_format = {"scale": 2.0 ** (1 - limits.bits), "offset": limits.max / 2 if limits.min == 0 else 0.0}
        elif set(iq_format) != {"scale", "offset"}:
            raise ValueError(f"`iq_format`: expected 'scale' and 'offset', found {sorted(iq_format)}")
        values = (values.to(torch.float32) - iq_format["offset"]) * iq_format["scale"]
    return torch.view_as_complex(values.to(torch.float32).contiguous())


class MMWFMFeatureExtractor(FeatureExtractionMixin):
    """Turns IQ into the model's input.

    Args:
        sampling_rate_hz: rate that the model was fitted for; None accepts any.
        normalization: "sample" (unit power over a sample's antennas), "dataset" (I and Q standardised with `iq_mean`
            and `iq_std`, which `fit` measures) or "none".
        iq_mean, iq_std: of I and of Q.
        iq_format: {"scale", "offset"} of integer IQ, full scale = (raw - offset) * scale; None: from the integer type,
            so that full scale is +-1 (uint8: offset 127.5, scale 1/128).
        max_antennas: most antennas the model takes.
        n_fft, hop_length, power_floor: of the spectrogram view, 10 log10(|STFT|^2 + floor) under a Hann window.
        center_carrier: move the carrier to 0 Hz: one offset for a recording, the peak of its power spectrum, summed
            over the antennas and smoothed over about max(4, T / 64) bins (see `carrier_offset`). After resampling,
            because the model's rate sets the width, and before normalisation, whose statistics `fit` takes of centred
            IQ. The spectrogram view is left where it is: it has an option of its own.
        center_peak: roll the rows of the spectrogram view so that the peak of its time-mean power is in the middle
            row, `n_fft` // 2; rows then count from the peak, not from 0 Hz.
    """

    model_input_names = ["iq_values", "iq_attention_mask"]

    def __init__(
        self,
        sampling_rate_hz: float | None = None,
        normalization: str = "sample",
        iq_mean: list[float] | None = None,
        iq_std: list[float] | None = None,
        iq_format: dict[str, float] | None = None,
        max_antennas: int = 16,
        n_fft: int = 1024,
        hop_length: int = 512,
        power_floor: float = 1e-12,
        center_carrier: bool = False,
        center_peak: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_normalization(normalization)
        self.sampling_rate_hz = sampling_rate_hz
        self.normalization = normalization
        self.iq_mean = iq_mean
        self.iq_std = iq_std
        self.iq_format = iq_format
        self.max_antennas = max_antennas
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.power_floor = power_floor
        self.center_carrier = center_carrier
        self.center_peak = center_peak

    def __call__(
        self,
        iq,
        sampling_rate_hz: float | None = None,
        iq_format: dict[str, float] | None = None,
        resample: bool = False,
        return_carrier_offset: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Normalise and batch IQ.

        Args:
            iq: complex (T,), (A, T) or (B, A, T), the same of real numbers with a last axis of I and Q, or a list of
                (T,) or (A, T) of any lengths and antenna counts; NumPy or torch.
            sampling_rate_hz: of this input.
            iq_format: overrides the saved one.
            resample: convert to the fitted sampling rate instead of refusing another one.
            return_carrier_offset: also give the offset that `center_carrier` removed. The model does not take it.
            return_tensors: "pt" or "np".

        Returns:
            `iq_values` (B, A, 2, T) float32 and `iq_attention_mask` (B, A, T) int64, 1 = real; shorter samples and
            samples of fewer antennas are padded with zeros at the end. On request `carrier_offset_hz` (B,) float32, in
            cycles per sample where no sampling rate is known, neither fitted nor given.

        Raises:
            ValueError: wrong rank or type, empty, NaN or Inf, too many antennas, another sampling rate, the offset
                asked of a processor that does not centre.
        """
        if return_carrier_offset and not self.center_carrier:
            raise ValueError("`return_carrier_offset`: expected a processor with `center_carrier`, found one without")
        groups, offsets, order = [], [], []
        for rows, values in self.read(iq, sampling_rate_hz, iq_format, resample):
            values, offset = self.center(values)
            groups.append((rows, torch.view_as_real(self.normalize(values)).movedim(-1, 2)))
            offsets.append(offset)
            order += rows
        antennas, samples = (max(part.shape[axis] for _, part in groups) for axis in (1, 3))
        if len(groups) == 1:
            values = groups[0][1].contiguous()
            mask = values.new_ones(len(values), antennas, samples, dtype=torch.int64)
        else:
            batch_size = sum(len(rows) for rows, _ in groups)
            values = groups[0][1].new_zeros(batch_size, antennas, 2, samples)
            mask = values.new_zeros(batch_size, antennas, samples, dtype=torch.int64)
            for rows, part in groups:
                values[rows, : part.shape[1], :, : part.shape[3]] = part
                mask[rows, : part.shape[1], : part.shape[3]] = 1
        data = {"iq_values": values, "iq_attention_mask": mask}
        if return_carrier_offset:
            rate = self.sampling_rate_hz or sampling_rate_hz or 1.0
            data["carrier_offset_hz"] = (rate * torch.cat(offsets)[torch.tensor(order).argsort()]).float()
        return BatchFeature(data).convert_to_tensors(return_tensors)

    def spectrogram(
        self, iq, sampling_rate_hz: float | None = None, iq_format: dict | None = None, resample: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Power spectrogram in dB, mean over antennas: (B, 1, n_fft, frames) float32.

        Rows are frequency from -fs/2 up, columns time. Input and errors as for a call; samples of unequal length give
        a list of (1, n_fft, frames). Recordings shorter than `n_fft` are padded with zeros.
        """
        for name in ("n_fft", "hop_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected at least 1, found {getattr(self, name)}")
        groups = self.read(iq, sampling_rate_hz, iq_format, resample)
        images = [None] * sum(len(rows) for rows, _ in groups)
        for rows, values in groups:
            values = torch.nn.functional.pad(values, (0, max(self.n_fft - values.shape[-1], 0)))
            window = torch.hann_window(self.n_fft, device=values.device)
            frames = values.unfold(-1, self.n_fft, self.hop_length)
            decibels = window.new_empty(len(values), 1, self.n_fft, frames.shape[2])
            # By parts of a bounded size: what leaves the cache on its way takes three times as long.
            size = max(1, 2**18 // (frames.shape[1] * frames.shape[2] * self.n_fft))
            for part, image in zip(frames.split(size), decibels.split(size)):
                squares = torch.view_as_real(torch.fft.fft(part * window)).square_()
                power = (squares[..., 0] + squares[..., 1]).mean(1, keepdim=True)
                power = torch.fft.fftshift(power, dim=-1).transpose(2, 3)
                if self.center_peak:
                    power = center_peak(power)
                image.copy_(power).add_(self.power_floor).log10_().mul_(10)
            if len(groups) == 1:
                return decibels
            for row, image in zip(rows, decibels):
                images[row] = image
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images

    def measure(self, iq, statistics: "RunningStatistics"):
        """Add IQ, as for a call, to the statistics of I and Q."""
        for _, values in self.read(iq):
            statistics.add(torch.view_as_real(self.center(values)[0]).flatten(0, -2))

    def set_statistics(self, statistics: "RunningStatistics"):
        self.iq_mean, self.iq_std = statistics.mean.tolist(), statistics.std.tolist()

    def center(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, A, T) complex64 -> the same with the carrier at 0 Hz, and (B,) its offset in cycles per sample."""
        if not self.center_carrier:
            return values, values.new_zeros(len(values), dtype=torch.float64)
        offset = carrier_offset(values)
        return shift_frequency(values, offset), offset

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        """(B, A, T) complex64 -> the same, normalised."""
        if self.normalization == "sample":
            # By the largest part first: squares of very small or large samples leave float32's range.
            parts, tiny = torch.view_as_real(values), torch.finfo(torch.float32).tiny
            parts = parts / parts.abs().amax((1, 2, 3), keepdim=True).clamp(min=tiny)
            power = 2 * parts.square().mean((1, 2, 3), keepdim=True)
            return torch.view_as_complex(parts.div_(power.sqrt().clamp(min=tiny)))
        if self.normalization == "dataset":
            if self.iq_mean is None or self.iq_std is None:
                raise ValueError("normalization 'dataset': expected fitted statistics, call `fit(dataset)` first")
            mean, std = (torch.tensor(numbers, device=values.device) for numbers in (self.iq_mean, self.iq_std))
            return torch.view_as_complex((torch.view_as_real(values) - mean) / std)
        return values

    def read(self, iq, sampling_rate_hz=None, iq_format=None, resample=False) -> list[tuple[list[int], torch.Tensor]]:
        """Checked full-scale IQ, grouped by shape: [(positions in the batch, (B, A, T) complex64), ...]."""
        from_list = isinstance(iq, (list, tuple))
        groups = []
        for rows, values in stack_by_shape(iq, "iq"):
            values = full_scale(values, iq_format or self.iq_format)
            rank = values.ndim - from_list
            if rank not in ((1, 2) if from_list else (1, 2, 3)):
                expected = "a list of (T,) or (A, T)" if from_list else "(T,), (A, T) or (B, A, T)"
                shape = tuple(values.shape[from_list:])
                raise ValueError(f"`iq`: expected {expected}, complex or with a last axis of 2, found {shape}")
            if rank == 1:
                values = values.unsqueeze(-2)
            if not from_list and rank < 3:
                rows, values = [0], values.unsqueeze(0)
            check_values(values, "iq")
            if values.shape[1] > self.max_antennas:
                raise ValueError(f"`iq`: expected at most {self.max_antennas} antennas, found {values.shape[1]}")
            values = match_rate(values, self.sampling_rate_hz, sampling_rate_hz, resample, "sampling_rate_hz")
            groups.append((rows, values))
        return groups
