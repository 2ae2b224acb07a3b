"""What is compared with what, and what is to be reached.

Results are rows -> series -> `seconds` of each round for `items`, `flop`, ... A series is named "row/series" here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .pretraining import PEAK

# The paper's pretraining: epochs, images and as many IQ samples.
EPOCHS, SAMPLES = 800, 3200


class Value(NamedTuple):
    """A ratio of medians, the range that the quartiles of both sides span, and the names that were compared."""

    median: float
    low: float
    high: float
    ours: str
    peer: str


class Goal(NamedTuple):
    what: str
    value: Callable[[dict], Value | None]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"

    def reached(self, value: Value) -> bool | None:
        """None where there is no goal."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least or 0) <= value.median <= (np.inf if self.at_most is None else self.at_most)


def find(results: dict, name: str) -> dict | None:
    row, series = name.split("/")
    return results.get(row, {}).get(series)


def quartiles(series: dict, quantity: str = "items") -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of items (or flop) in a second."""
    slow, median, fast = np.percentile(series["seconds"], [75, 50, 25])
    return tuple(float(series[quantity] / seconds) for seconds in (slow, median, fast))


def ratio(ours: list[str], peers: list[str], quantity: str = "items", slowest: bool = False):
    """-> function of results: the fastest (or slowest) of ours over the fastest peer, by medians."""

    def value(results: dict) -> Value | None:
        own, others = (
            {name: quartiles(series, quantity) for name in names if (series := find(results, name))}
            for names in (ours, peers)
        )
        if not own or not others:
            return None
        first = (min if slowest else max)(own, key=lambda name: own[name][1])
        second = max(others, key=lambda name: others[name][1])
        (low, median, high), (peer_low, peer, peer_high) = own[first], others[second]
        return Value(median / peer, low / peer_high, high / peer_low, first, second)

    return value


def both(row: str, name: str) -> list[str]:
    """Eager and compiled."""
    return [f"{row}/{name}", f"{row}/{name} compiled"]


def flatness(sweep_row: str, title: str, most: int):
    """-> function of results: the least rate of a sweep up to `most` over its highest."""

    def value(results: dict) -> Value | None:
        names = [
            f"{sweep_row}/{name}"
            for name, series in results.get(sweep_row, {}).items()
            if name.startswith(title) and series["size"] <= most
        ]
        return ratio(names, names, slowest=True)(results)

    return value


def encoded_rows(results: dict) -> Value | None:
    name = "finetuning-cached/ours, later epoch"
    series = find(results, name)
    return series and Value(*[series["encoded_rows"]] * 3, name, "-")


def paper_minutes(results: dict) -> Value | None:
    """Of the whole pretraining, at the rates of the faster of eager and compiled steps."""
    parts = [
        max((quartiles(series) for name in both("gpu-pretraining-small", f"{kind}, ours") if (series := find(results, name))),
            key=lambda rates: rates[1], default=None)
        for kind in ("images", "IQ")
    ]  # fmt: skip
    if None in parts:
        return None
    high, median, low = (sum(EPOCHS * SAMPLES / rates[place] / 60 for rates in parts) for place in range(3))
    return Value(median, low, high, "gpu-pretraining-small", "-")


def pretraining_goals(row: str, peak_share: float | None, peer_ratio: float | None, iq_spread: float | None = None):
    images, iq = both(row, "images, ours"), both(row, "IQ, ours")
    spread = {} if iq_spread is None else {"at_least": 1 - iq_spread, "at_most": 1 + iq_spread}
    return [
        Goal(f"{row}: images/s over ViTMAE", ratio(images, [f"{row}/images, ViTMAE"]), peer_ratio),
        Goal(f"{row}: images/s, compiled both", ratio(images[1:], [f"{row}/images, ViTMAE compiled"])),
        Goal(f"{row}: share of the peak, images", ratio(images, [f"{row}/{PEAK}"], "flop"), peak_share),
        Goal(f"{row}: share of the peak, IQ", ratio(iq, [f"{row}/{PEAK}"], "flop")),
        Goal(f"{row}: FLOP/s of IQ over images", ratio(iq, images, "flop"), **spread),
    ]


def finetuning_goals(row: str, at_least: float | None):
    return [
        Goal(f"{row}: samples/s over ViT", ratio(both(row, "ours"), [f"{row}/ViT"]), at_least),
        Goal(f"{row}: samples/s, compiled both", ratio([f"{row}/ours compiled"], [f"{row}/ViT compiled"])),
    ]


def inference_goals(row: str, with_onnx: bool = False, at_least: float | None = 1.5):
    goals = []
    for kind, goal in (("throughput", at_least), ("latency", at_least and 1.0)):
        ours, peer = both(row, f"{kind}, ours"), [f"{row}/{kind}, ViT"]
        onnx = [f"{row}/{kind}, ours ONNX"] if with_onnx else []
        what = f"{row}: {'samples/s' if kind == 'throughput' else '1 / latency'}"
        goals += [Goal(f"{what} over ViT", ratio(ours + onnx, peer), goal)]
        goals += [Goal(f"{what}, compiled both", ratio(ours[1:], [f"{row}/{kind}, ViT compiled"]))]
        if with_onnx:
            goals += [Goal(f"{what}, int8 over ViT", ratio([f"{row}/{kind}, ours int8"], peer))]
    return goals


def feeding_goals(row: str, kind: str, model_kind: str, reference: str, at_least: float):
    """Preparing input over the model's pretraining on it, where it is fastest, and over the reference."""
    consumer = [
        name for precision in ("bf16", "fp32") for name in both(f"pretraining-{precision}", f"{model_kind}, ours")
    ]
    return [
        Goal(f"{row}: {kind} over pretraining's use", ratio([f"{row}/{kind}, ours"], consumer), at_least),
        Goal(f"{row}: {kind} over {reference}", ratio([f"{row}/{kind}, ours"], [f"{row}/{kind}, {reference}"])),
    ]


GOALS = [
    *pretraining_goals("pretraining-bf16", 0.5, 2.5, 0.15),
    *pretraining_goals("pretraining-fp32", None, None),
    *finetuning_goals("finetuning-lora", 2.0),
    *finetuning_goals("finetuning-lp", 2.0),
    Goal("finetuning-cached: rows encoded in a later epoch", encoded_rows, at_most=0, unit="rows"),
    Goal(
        "finetuning-cached: samples/s of a later epoch over ViT's LP steps",
        ratio(["finetuning-cached/ours, later epoch"], ["finetuning-lp/ViT"]),
        2.0,
    ),
    *inference_goals("inference-fp32", with_onnx=True),
    *inference_goals("inference-bf16"),
    *[
        Goal(f"adapters: {kind} of four adapters in one batch over one adapter",
             ratio([f"adapters/{kind}, four adapters"], [f"adapters/{kind}, one adapter"]), 1 / 1.3)
        for kind in ("IQ", "images")
    ],
    *feeding_goals("preprocessing", "IQ windows", "IQ", "NumPy", 5.0),
    *feeding_goals("preprocessing", "spectrograms", "images", "NumPy", 5.0),
    *feeding_goals("preprocessing", "CSI", "images", "NumPy", 5.0),
    *feeding_goals("reading", "images", "images", "datasets", 3.0),
    *feeding_goals("reading", "IQ", "IQ", "datasets", 3.0),
    *[
        Goal(f"cost-tokens: least over highest tokens/s up to 1,024 tokens, {kind}",
             flatness("cost-tokens", kind, 1024), 1 / 1.2)
        for kind in ("encoder forward", "pretraining step")
    ],
    *pretraining_goals("gpu-pretraining-small", None, None),
    Goal("gpu-pretraining-small: the paper's 800 epochs", paper_minutes, at_most=5.0, unit="minutes"),
    *pretraining_goals("gpu-pretraining-base", 0.4, None),
    *finetuning_goals("gpu-finetuning-lora", None),
    *finetuning_goals("gpu-finetuning-lp", None),
    *inference_goals("gpu-inference", at_least=None),
]  # fmt: skip
