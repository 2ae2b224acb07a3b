"""Regimes of adaptation: what trains, of each kind of model, and how fast."""

import re
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel

REGIMES = "probe, lp, ft<k>, lora, strict, head, full or scratch"


@dataclass(frozen=True)
class Parts:
    """What the regimes train of one kind of model; names below its encoder.

    Args:
        inputs: by family, the modules that adapt its input to the encoder; position tables are computed and never
            train.
        blocks: the list of which "ft<k>" trains the last k.
        lora_targets: pattern of the matrices or 1x1 convolutions that get adapters.
        probe: parameters that even a strict probe trains beside the head.
        sizes: configuration fields in which an adapter and its base must agree.
    """

    inputs: dict[str, tuple[str, ...]]
    blocks: str
    lora_targets: str
    probe: tuple[str, ...]
    sizes: tuple[str, ...]


PARTS = {
    "mmwfm": Parts(
        inputs={
            "iq": tuple(f"iq_embeddings.{part}" for part in ("projection", "affine", "positions.antenna_embeddings")),
            "image": tuple(f"image_embeddings.{part}" for part in ("projection", "affine", "channel_adapter")),
        },
        blocks="layers",
        lora_targets=r".*\.(q_proj|v_proj)",
        probe=("cls_token",),
        sizes=("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "segment_length"),
    ),
    "iqfm": Parts(
        inputs={"iq": ("stem.convolution",)},
        blocks="stages",
        lora_targets=r".*\.(expand|project|stages\.\d+)\.convolution",  # the 1x1 convolutions
        probe=(),
        sizes=("num_antennas", "stem_channels", "stage_channels", "stage_depths", "hidden_size"),
    ),
}


def input_modules(model: PreTrainedModel, families) -> list[str]:
    """Names of the modules before the encoder that stay trainable for these input families."""
    parts, modules = PARTS[model.config.model_type], dict(model.named_modules())
    names = [f"{model.base_model_prefix}.{part}" for family in families for part in parts.inputs.get(family, ())]
    return [name for name in names if modules.get(name) is not None]


def adapted_families(modules_to_save: list[str] | None) -> list[str]:
    """Input families of the task of an MMWFM adapter, by the input modules that it holds."""
    return [
        family
        for family in PARTS["mmwfm"].inputs
        if any(f"{family}_embeddings" in module for module in modules_to_save or ())
    ]


def apply_regime(
    model: PreTrainedModel, regime: str, families, lora_rank: int = 32, lora_alpha: float = 64
) -> PreTrainedModel | PeftModel:
    """Set what trains.

    Args:
        model: with a head named `classifier`, of a kind in `PARTS`.
        regime: "lp" (head and input modules: projections with their affine, antenna vectors), "ft<k>" (and the last k
            blocks), "lora" (and rank-stabilised adapters in every block), "strict" (head and CLS), "head" (it
            alone), "probe" (it alone, fitted instead of trained), "full" and "scratch" (everything but the parts of other input families).
        families: input families of the task, "iq", "image" or both.

    Raises:
        ValueError: unknown regime, or more blocks than there are.
    """
    if not re.fullmatch(r"lp|ft\d+|lora|strict|head|probe|full|scratch", regime):
        raise ValueError(f"`regime`: expected {REGIMES}, found {regime!r}")
    parts, encoder = PARTS[model.config.model_type], model.base_model
    blocks = encoder.get_submodule(parts.blocks)
    num_blocks = int(regime[2:]) if regime.startswith("ft") else 0
    if num_blocks > len(blocks):
        raise ValueError(f"`regime`: expected at most ft{len(blocks)}, found {regime}")
    inputs = input_modules(model, families)
    if regime == "lora":
        config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha,
            use_rslora=True,
            target_modules=parts.lora_targets,
            modules_to_save=[*inputs, "classifier"],
        )
        return get_peft_model(model, config)
    model.requires_grad_(regime in ("full", "scratch"))
    for name in input_modules(model, set(parts.inputs) - set(families)):
        model.get_submodule(name).requires_grad_(False)
    trainable = [model.classifier]
    if regime == "strict":
        trainable += [encoder.get_parameter(name) for name in parts.probe]
    elif regime not in ("head", "probe"):
        trainable += [model.get_submodule(name) for name in inputs]
        trainable += blocks[len(blocks) - num_blocks :]
    for part in trainable:
        part.requires_grad_(True)
    return model


def head_as_adapter(model: PreTrainedModel) -> PeftModel:
    """A model whose head alone is its own -> an adapter that holds the head alone."""
    config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES, modules_to_save=["classifier"])
    return get_peft_model(model, config)


def decayed_groups(
    model: PreTrainedModel | PeftModel, learning_rate: float, layer_decay: float, weight_decay: float
) -> list[dict]:
    """Parameter groups: learning rate falls by `layer_decay` from block to block towards the input; vectors do not
    decay."""
    parts = PARTS[model.config.model_type]
    adapted = model.get_base_model() if isinstance(model, PeftModel) else model
    num_blocks = len(adapted.base_model.get_submodule(parts.blocks))
    first = {name.split(".")[0] for names in (*parts.inputs.values(), parts.probe) for name in names}
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        block = re.search(rf"\.{parts.blocks}\.(\d+)\.", name)
        depth = int(block[1]) + 1 if block else 0 if first & set(name.split(".")) else num_blocks + 1
        decay = weight_decay if parameter.squeeze().ndim > 1 else 0.0
        group = groups.setdefault((depth, decay), {"params": [], "weight_decay": decay})
        group["lr"] = learning_rate * layer_decay ** (num_blocks + 1 - depth)
        group["params"].append(parameter)
    return list(groups.values())
