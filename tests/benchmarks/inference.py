"""Classification of one image (latency) and of a batch (throughput)."""

import contextlib
import importlib.util
import io
import tempfile
from functools import partial

import torch

from .models import DTYPES, images, our_classifier, peer_classifier, with_compiled
from .scale import Scale
from .timing import Call, take_turns, wait_for


def onnx_sessions(scale: Scale, folder: str) -> dict:
    """Our model in onnxruntime, and with 8-bit weights; nothing where the extra `onnx` is missing."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        return {}
    import onnxruntime

    from modeling_mmwfm.onnx_mmwfm import ExportArguments, export

    our_classifier(scale.preset).save_pretrained(f"{folder}/model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = scale.threads
    sessions = {}
    for name, quantize in (("ours ONNX", False), ("ours int8", True)):
        with contextlib.redirect_stdout(io.StringIO()):
            path = export(ExportArguments(f"{folder}/model", f"{folder}/{quantize}.onnx", ["image"], False, quantize))
        sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sessions


def measure(scale: Scale, precision: str, device: str = "cpu") -> dict[str, dict]:
    dtype = DTYPES[precision]
    models = {"ours": our_classifier(scale.preset), "ViT": peer_classifier(scale.preset, scale.image_size)}
    models = {name: model.eval().to(device, dtype) for name, model in models.items()}
    models = with_compiled(models, scale)
    with tempfile.TemporaryDirectory() as folder:
        sessions = onnx_sessions(scale, folder) if precision == "fp32" and device == "cpu" else {}

    def run_torch(model, pixel_values):
        with torch.no_grad():
            model(pixel_values=pixel_values)
        wait_for(device)

    calls = {}
    largest = scale.batch_size if device == "cpu" else scale.gpu_batch_size
    for kind, batch_size in (("latency", 1), ("throughput", largest)):
        pixel_values = images(batch_size, scale, device)["pixel_values"].to(dtype)
        for name, model in models.items():
            calls[f"{kind}, {name}"] = Call(partial(run_torch, model, pixel_values), batch_size)
        for name, session in sessions.items():
            feeds = {"pixel_values": pixel_values.numpy()}
            calls[f"{kind}, {name}"] = Call(partial(session.run, None, feeds), batch_size)
    return take_turns(calls, scale)
