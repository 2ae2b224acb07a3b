"""Models and inputs small enough for a test."""

import math

import torch
from torch import nn

from modeling_mmwfm import MMWFMConfig, MMWFMForSequenceClassification
from modeling_mmwfm.regimes_mmwfm import apply_regime

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "patch_size": 4,
    "segment_length": 8,
    "max_antennas": 5,
}
# What the released checkpoint has beside its sizes; its processor centres the carrier.
RELEASED = {
    "iq_input": "waveform_log_spectrum",
    "iq_targets": {"log_spectrum": 1.0},
    "segment_length": 64,
    "pooling": "mean_std",
}


def make(model_class, attn_implementation: str = "sdpa", seed: int = 0, **settings):
    """A model in evaluation mode whose parameters are all random: zeros and ones at the start would hide mistakes."""
    torch.manual_seed(seed)
    config = MMWFMConfig(**{**SMALL, **settings})
    model = model_class._from_config(config, attn_implementation=attn_implementation).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "token" in name or "embeddings.weight" in name:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return model


def iq(batch_size: int, antennas: int, samples: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch_size, antennas, 2, samples, generator=torch.Generator().manual_seed(seed))


def images(batch_size: int, channels: int, height: int, width: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, channels, height, width, generator=torch.Generator().manual_seed(seed))


def pad_iq(samples: list[torch.Tensor], fill: float = 0.0, extra: int = 0) -> dict[str, torch.Tensor]:
    """Samples (A, 2, T) of any sizes -> a padded batch, `extra` samples longer than the longest."""
    antennas, length = max(len(x) for x in samples), max(x.shape[-1] for x in samples) + extra
    values = torch.full((len(samples), antennas, 2, length), fill)
    mask = torch.zeros(len(samples), antennas, length, dtype=torch.long)
    for row, x in enumerate(samples):
        values[row, : len(x), :, : x.shape[-1]] = x
        mask[row, : len(x), : x.shape[-1]] = 1
    return {"iq_values": values, "iq_attention_mask": mask}


def alone_rows(sample: torch.Tensor, antennas: int, segment_length: int) -> torch.Tensor:
    """Where the tokens of a sample (A, 2, T), ordered as when alone, lie in a batch of `antennas` antennas."""
    segments = math.ceil(sample.shape[-1] / segment_length)
    return (torch.arange(segments)[:, None] * antennas + torch.arange(len(sample))).flatten()


def write_adapter(base, folder, families, settings, rank=4, seed=0):
    """An adapter folder as `finetune.py` leaves it, with random weights throughout."""
    config = MMWFMConfig.from_pretrained(base, **settings)
    model = MMWFMForSequenceClassification.from_pretrained(base, config=config)
    model = apply_regime(model, "lora", families, rank, 2 * rank)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder
