"""Parts of the page as HTML; whatever comes from a file is escaped."""

import base64
import io
from html import escape

from inputs import Signal
from plots import thumbnail
from serving import Prediction, Reconstruction, Serving

MAX_CLASSES = 5
RECONSTRUCTED = {  # title, and what its tokens are
    "waveform": ("IQ", "segments"),
    "log_spectrum": ("IQ, the spectrum of each segment", "segments"),
    "image": ("Spectrogram", "patches"),
    "csi": ("CSI as the model sees it", "patches"),
}


def header(serving: Serving) -> str:
    parameters = sum(parameter.numel() for parameter in serving.model.parameters()) / 1e6
    names = serving.adapters.names
    adapters = f"{len(names)} adapter{'s' * (len(names) != 1)}"
    return (
        "<header><h1>Multimodal wireless foundation model</h1><p>One encoder for IQ streams and image-like wireless "
        "data. Drop a recording or pick an example: what the model sees of it, what it fills in, what it finds alike, "
        f"and what its adapters say.</p><p class='chips'><span>{escape(serving.name)}</span>"
        f"<span>{parameters:.2f} M parameters</span><span>{adapters}</span><span>on the CPU</span></p></header>"
    )


def caption(signal: Signal) -> str:
    """Of a bundled example, short."""
    if signal.task == "modulation":
        return signal.label
    if signal.source:
        return f"{signal.task} {signal.label}: {signal.source}"
    return signal.task if signal.task.startswith("pos") else f"{signal.task} {signal.label}"


def quantity(value: float, unit: str) -> str:
    """With the prefix that leaves one to three digits before the point."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def summary(signal: Signal, offset: float | None) -> str:
    """Name and facts of a recording; `offset` of its carrier in cycles per sample."""
    shape, rate_hz = signal.values.shape, signal.sampling_rate_hz
    if signal.kind == "iq":
        facts = [("antennas", str(shape[0])), ("samples", f"{signal.length:,}")]
        facts.append(("sampling rate", quantity(rate_hz, "S/s") if rate_hz else "not known"))
        if signal.center_frequency_hz:
            facts.append(("centre frequency", quantity(signal.center_frequency_hz, "Hz")))
        if offset is not None:
            facts.append(
                ("carrier at", quantity(offset * rate_hz, "Hz") if rate_hz else f"{round(offset, 4) + 0.0:g} / sample")
            )
    elif signal.kind == "csi":
        facts = [("antennas", str(shape[0])), ("subcarriers", str(shape[1])), ("packets", f"{signal.length:,}")]
        facts.append(("packet rate", f"{rate_hz:.4g} / s" if rate_hz else "not known"))
    else:
        facts = [("channels", str(shape[0])), ("rows x columns", f"{shape[1]} x {signal.length}")]
        if rate_hz:
            facts.append(("packets", f"{rate_hz:g} / s"))
    if shape[-1] < signal.length:
        facts.append(("read here", f"first {shape[-1]:,}"))
    cells = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    title = f"{signal.task}: {signal.label}" if signal.task else signal.name
    source = note(f"Measured by {signal.source}.") if signal.source else ""
    return f"<section class='summary'><h2>{escape(title)}</h2><dl>{cells}</dl>{source}</section>"


def reconstruction_note(name: str, parts: Reconstruction) -> str:
    share, (title, tokens) = 100 * parts.num_masked / parts.num_tokens, RECONSTRUCTED[name]
    return (
        f"<h4>{title}</h4><p class='note'>{parts.num_masked} of {parts.num_tokens} {tokens} hidden "
        f"({share:.0f} %). Error on what is hidden: <b>{round(parts.error_db, 1) + 0.0:+.1f} dB</b>; 0 dB is a constant guess.</p>"
    )


def note(text: str) -> str:
    return f"<p class='note'>{escape(text)}</p>" if text else ""


def neighbours(found: list[tuple[Signal, float]]) -> str:
    if not found:
        return note("The base model does not take this kind of recording: nothing to compare.")
    cards = []
    for signal, cosine in found:
        buffer = io.BytesIO()
        thumbnail(signal).save(buffer, format="PNG")
        source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        label = escape(signal.label)
        cards.append(
            f"<figure class='neighbour'><img src='{source}' alt='picture of {label}'><figcaption><b>{label}</b>"
            f"<span>{escape(signal.task)}</span><span>cosine {cosine:.2f}</span></figcaption></figure>"
        )
    return f"<div class='neighbours'>{''.join(cards)}</div>"


def predictions(found: list[Prediction]) -> str:
    if not found:
        return note("No adapters are loaded: start with --adapters FOLDER or set MMWFM_ADAPTERS.")
    return f"<div class='cards'>{''.join(prediction(one) for one in sorted(found, key=lambda p: not p.unit))}</div>"


def prediction(one: Prediction) -> str:
    if one.unit == "m":
        rows = "".join(
            f"<div class='metres'><dt>{escape(axis)}</dt><dd>{x:.2f} m</dd></div>" for axis, x in one.values
        )
        body = f"<dl>{rows}</dl>"
    else:
        body = "".join(
            f"<div class='score'><span>{escape(label)}</span><span>{100 * score:.1f} %</span>"
            f"<i style='width:{100 * score:.1f}%'></i></div>"
            for label, score in one.values[:MAX_CLASSES]
        )
    unlike = one.novelty is not None and one.novelty > 1
    kind = (" unlike" if unlike else "") if one.unit else " idle"
    told = "" if one.novelty is None else note(f"novelty {one.novelty:.3g}")
    if unlike:
        told = f"<p class='mark'>unlike its training data (novelty {one.novelty:.3g})</p>"
    return f"<article class='adapter{kind}'><h4>{escape(one.adapter)}</h4>{told}{body}{note(one.note)}</article>"
