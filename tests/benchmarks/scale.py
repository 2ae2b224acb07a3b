"""How large a benchmark is."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The defaults are the benchmark.

    Args:
        repeats: rounds in which every call of a row is timed once.
        min_seconds: short calls are repeated within a round until they take as long.
        backend: of `torch.compile`.
        matrix_size: rows and columns of the matrices whose product gives the peak.
        spectrogram_frames: columns of a spectrogram before it is resized.
        csi_shape: antennas, subcarriers and packets before resizing.
        dataset_rows, head_rows: of the data sets that are read, and of that which a head is trained on.
        later_epochs: of the head, after one epoch.
        cost_batch_size, cost_repeats: batch size of the sweeps over tokens and antennas; rounds of all sweeps.
        fresh_processes: measure each point of the sweeps in a new process, whose peak memory is that of the point.
    """

    preset: str = "small"
    gpu_preset: str = "base"
    threads: int = 2
    batch_size: int = 64
    gpu_batch_size: int = 256
    image_size: int = 224
    antennas: int = 4
    samples: int = 1024
    repeats: int = 7
    min_seconds: float = 0.3
    backend: str = "inductor"
    matrix_size: int = 4096
    gpu_matrix_size: int = 8192
    spectrogram_frames: int = 224
    csi_shape: tuple[int, int, int] = (3, 114, 500)
    dataset_rows: int = 1024
    head_rows: int = 256
    later_epochs: int = 100
    cost_tokens: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    cost_batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256)
    cost_antennas: tuple[int, ...] = (1, 2, 4, 8, 16)
    cost_batch_size: int = 8
    cost_repeats: int = 3
    fresh_processes: bool = True

    def as_dict(self) -> dict:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


# Runs the same code in seconds; its figures mean nothing.
MINIATURE = Scale(
    preset="tiny",
    gpu_preset="tiny",
    threads=1,
    batch_size=2,
    gpu_batch_size=2,
    image_size=32,
    antennas=2,
    samples=64,
    repeats=2,
    min_seconds=0.0,
    backend="eager",
    matrix_size=64,
    gpu_matrix_size=64,
    spectrogram_frames=3,
    csi_shape=(1, 20, 40),
    dataset_rows=6,
    head_rows=6,
    later_epochs=10,
    cost_tokens=(4, 16),
    cost_batch_sizes=(1, 2),
    cost_antennas=(1, 2),
    cost_batch_size=2,
    cost_repeats=1,
    fresh_processes=False,
)
