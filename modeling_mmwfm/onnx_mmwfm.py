"""Models as ONNX graphs of any batch, length, antennas and image size."""

import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModel

from .finetuning_mmwfm import load_adapted
from .regimes_mmwfm import adapted_families

try:
    import onnxruntime
    import onnxscript  # noqa: F401  what torch.onnx needs
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError as error:
    raise ImportError(f"expected onnx, onnxscript and onnxruntime (the extra `onnx`), found {error}") from error

NAMES = {"iq": "iq_values", "image": "pixel_values"}
TOLERANCE = 1e-4


@dataclass
class ExportArguments:
    model: str = field(metadata={"help": "folder of a fine-tuned model, an adapter or an encoder"})
    output: str = field(metadata={"help": "file to write, .onnx"})
    inputs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "iq, image or both at once; default: what an adapter was trained on, or what the model takes, IQ first"
        },
    )
    padding: bool = field(
        default=False, metadata={"help": "also take `iq_attention_mask`, for batches of unequal recordings"}
    )
    quantize: bool = field(
        default=False, metadata={"help": "weights of linear layers as 8-bit integers, see `quantize`"}
    )


class Exported(nn.Module):
    """What the ONNX graph computes: tensors in, logits or features out, without a branch on any size.

    Args:
        names: of the arguments, in order.
    """

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(self.names, tensors))
        if "iq_values" in inputs:
            if self.model.config.iq_input != "waveform":  # the spectrum of a part of a segment is that of its samples
                inputs.setdefault("iq_attention_mask", torch.ones_like(inputs["iq_values"][:, :, 0]))
            # Whole segments in any case: whether the last one is full would be a branch.
            inputs |= {name: self.to_segments(value) for name, value in inputs.items() if name != "pixel_values"}
        output = self.model(**inputs)
        return output.logits if "logits" in output else output.pooler_output

    def to_segments(self, values: torch.Tensor) -> torch.Tensor:
        length = self.model.config.segment_length
        segments = (values.shape[-1] + length - 1) // length
        values = nn.functional.pad(values, (0, length - 1))[..., : segments * length]
        return values.unflatten(-1, (segments, length)).flatten(-2)


def load(folder: str) -> tuple[nn.Module, list[str]]:
    """A model, or an adapter merged into its base and the input families that it was trained on."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"expected the folder of a model, found none at {folder}")
    if (found := AutoConfig.from_pretrained(path).model_type) != "mmwfm":
        raise ValueError(f"expected a model of type mmwfm in {folder}, found {found}")
    if not (path / "adapter_config.json").is_file():
        architectures = AutoConfig.from_pretrained(path).architectures or []
        if not any("Classification" in name for name in architectures):
            return AutoModel.from_pretrained(path).eval(), []
    model = load_adapted(path)
    if not isinstance(model, PeftModel):
        return model, []
    return model.merge_and_unload(), adapted_families(model.peft_config["default"].modules_to_save)


def example(model, name: str, sizes: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Random input; `sizes` are batch, then antennas and samples, or rows and columns of patches."""
    batch, first, second = sizes
    generator = torch.Generator().manual_seed(seed)
    if name == "iq_values":
        return torch.randn(batch, first, 2, second, generator=generator)
    if name == "iq_attention_mask":
        mask = torch.ones(batch, first, second, dtype=torch.int64)
        mask[0, -1, second - second // 3 :] = 0
        return mask
    channels, patch = model.config.input_channels or model.config.num_channels, model.config.patch_size
    return torch.randn(batch, channels, first * patch, second * patch, generator=generator)


def dynamic_axes(model, name: str) -> dict:
    dimension = torch.export.Dim
    if name == "pixel_values":
        patch = model.config.patch_size
        return {0: dimension("batch"), 2: patch * dimension("rows"), 3: patch * dimension("columns")}
    samples = 3 if name == "iq_values" else 2
    return {0: dimension("batch"), 1: dimension("antennas"), samples: dimension("samples")}


def largest_difference(model: nn.Module, path: Path, names: list[str]) -> float:
    """Between torch and onnxruntime, over inputs of several sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    antennas, differences = model.config.max_antennas, []
    for seed, sizes in enumerate([(1, 1, 5), (2, min(2, antennas), 12), (3, antennas, 31)]):
        tensors = [example(model, name, sizes, seed) for name in names]
        with torch.no_grad():
            expected = Exported(model, names)(*tensors).numpy()
        found = session.run(None, dict(zip(names, (tensor.numpy() for tensor in tensors))))[0]
        differences.append(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    return float(max(differences))


def quantize(path: Path, output: Path) -> Path:
    """Weights of linear layers as 8-bit integers, of which 7 bits are used.

    Processors with AVX2 but without VNNI add two products of a byte of the input and one of the weights in 16 bits, and
    cut off what is larger: with all 8 bits the graph would compute something else there. 2 x 255 x 64 fits.
    """
    quantize_dynamic(path, output, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    return output


def export(arguments: ExportArguments) -> Path:
    """Write the ONNX file, compare it with the model at several sizes, then quantise it if asked to.

    Raises:
        ValueError: no such model, inputs that it does not take, or a graph that computes something else.
    """
    output = Path(arguments.output)
    if output.suffix != ".onnx":
        raise ValueError(f"`output`: expected a name that ends in .onnx, found {output}")
    model, trained = load(arguments.model)
    families = arguments.inputs or trained or [list(model.config.modalities)[0]]
    if unknown := set(families) - set(model.config.modalities) or len(set(families)) < len(families):
        raise ValueError(f"`inputs`: expected some of {list(model.config.modalities)}, found {families} ({unknown})")
    if arguments.padding and "iq" not in families:
        raise ValueError(f"`padding`: expected IQ among the inputs, found {families}")
    names = [NAMES[family] for family in families]
    if arguments.padding:
        names.insert(names.index("iq_values") + 1, "iq_attention_mask")
    # All sizes differ: the exporter takes equal ones for the same dimension.
    sizes = {"pixel_values": (2, 5, 7), "iq_values": (2, 3, 100), "iq_attention_mask": (2, 3, 100)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Exported(model, names).eval(),
            tuple(example(model, name, sizes[name]) for name in names),
            dynamo=True,
            dynamic_shapes={"tensors": tuple(dynamic_axes(model, name) for name in names)},
            input_names=names,
            output_names=["logits" if hasattr(model, "classifier") else "features"],
            verbose=False,
        )
    for node in program.model.graph.all_nodes():  # which line of which file made it, on this machine
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        path = Path(work) / output.name
        program.save(path, external_data=False)
        difference = largest_difference(model, path, names)
        if not difference < TOLERANCE:
            raise ValueError(f"expected the graph to compute the same within {TOLERANCE}, found {difference:.1e} off")
        if arguments.quantize:
            path = quantize(path, Path(work) / "quantized.onnx")
            print(f"8-bit weights: at most {largest_difference(model, path, names):.1e} off")
        shutil.move(path, output)
    print(f"{output}: {', '.join(names)} -> {model.__class__.__name__}, at most {difference:.1e} off")
    return output
