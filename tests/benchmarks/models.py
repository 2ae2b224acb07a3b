"""Our models and transformers' of the same sizes, random weights, and input for them."""

import os
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining, MMWFMForSequenceClassification
from modeling_mmwfm.precision_mmwfm import resolve_precision

from .scale import Scale

MODELS = Path(__file__).parents[2] / "configuration" / "models"
NUM_LABELS = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precision_of(device: str = "cpu") -> str:
    """What the recipes' `mixed_precision: auto` trains in here."""
    return "bf16" if resolve_precision("auto", torch.device(device)) == "bf16" else "fp32"


def our_config(preset: str) -> MMWFMConfig:
    return MMWFMConfig.from_pretrained(MODELS / preset, num_labels=NUM_LABELS)


def our_mae(preset: str, attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    return MMWFMForPreTraining._from_config(our_config(preset), attn_implementation=attention)


def our_classifier(preset: str) -> nn.Module:
    torch.manual_seed(0)
    return MMWFMForSequenceClassification(our_config(preset))


def encoder_sizes(config: MMWFMConfig, image_size: int) -> dict:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
    return {**{name: getattr(config, name) for name in names}, "image_size": image_size, "num_channels": 1}


def peer_mae(preset: str, image_size: int, attention: str = "sdpa") -> nn.Module:
    config = our_config(preset)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    decoder = {f"decoder_{name}": getattr(config, f"decoder_{name}") for name in names}
    torch.manual_seed(0)
    return ViTMAEForPreTraining._from_config(
        ViTMAEConfig(**encoder_sizes(config, image_size), **decoder, mask_ratio=config.mask_ratio_image),
        attn_implementation=attention,
    )


def peer_classifier(preset: str, image_size: int) -> nn.Module:
    torch.manual_seed(0)
    config = ViTConfig(**encoder_sizes(our_config(preset), image_size), num_labels=NUM_LABELS)
    return ViTForImageClassification(config)


def images(batch_size: int, scale: Scale, device: str = "cpu") -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch_size, 1, scale.image_size, scale.image_size, device=device)}


def iq(batch_size: int, antennas: int, samples: int, device: str = "cpu") -> dict[str, torch.Tensor]:
    return {"iq_values": torch.randn(batch_size, antennas, 2, samples, device=device)}


def can_compile(scale: Scale) -> bool:
    """Whether there is the C++ compiler that `torch.compile` needs on CPUs."""
    names = (os.environ.get("CXX", "c++"), "g++", "clang++")
    return scale.backend != "inductor" or any(shutil.which(name) for name in names)


def with_compiled(models: dict[str, nn.Module], scale: Scale) -> dict[str, nn.Module]:
    """The models, and each of them compiled for the shapes it meets."""
    if not can_compile(scale):
        return models
    compiled = {
        f"{name} compiled": torch.compile(model, backend=scale.backend, dynamic=False)
        for name, model in models.items()
    }
    return models | compiled
