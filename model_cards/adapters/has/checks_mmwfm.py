"""What a configuration and a recording may hold; errors name the field, what was expected and what was found."""

import difflib
import math

import torch

# Keys that transformers, peft and the quantisers write into any model's configuration beside its own fields.
LIBRARY_KEYS = {
    *("auto_map", "num_labels", "model_type", "torch_dtype", "name_or_path", "attn_implementation"),
    *("experts_implementation", "output_attentions", "quantization_config", "custom_pipelines"),
    *("use_cache", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "task_specific_params"),
}
IQ_TARGETS = ("waveform", "log_spectrum", "envelope")  # in the order of their values in the decoder's head
ENVELOPE_GROUP = 8  # samples per envelope value


def check_field_names(config_class, keys):
    """The base class stores any unknown key; a misspelt field would then silently keep its default."""
    if unknown := [key for key in keys if key not in LIBRARY_KEYS and not key.startswith("_")]:
        close = difflib.get_close_matches(unknown[0], config_class.__dataclass_fields__, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise ValueError(f"expected the fields of {config_class.__name__}, found {', '.join(unknown)}{hint}")


def check_architecture(config):
    if sorted(config.modalities) not in (["iq"], ["image"], ["image", "iq"]):
        raise ValueError(f"`modalities`: expected some of 'iq' and 'image', found {list(config.modalities)}")
    for prefix in ("", "decoder_"):
        width, heads = getattr(config, f"{prefix}hidden_size"), getattr(config, f"{prefix}num_attention_heads")
        if width % 4 or heads < 1 or width % heads:
            raise ValueError(
                f"`{prefix}hidden_size`: expected a multiple of 4 and of `{prefix}num_attention_heads`, "
                f"found {width} with {heads} heads"
            )
    positive = ("num_hidden_layers", "decoder_num_hidden_layers", "intermediate_size", "decoder_intermediate_size")
    positive += ("hidden_size", "patch_size", "num_channels", "input_channels", "segment_length", "max_antennas")
    positive += ("contrastive_size",)
    for name in positive:
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"`{name}`: expected at least 1, found {getattr(config, name)}")
    for name in ("mask_ratio_iq", "mask_ratio_image"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}`: expected 0 <= ratio < 1, found {getattr(config, name)}")
    if config.novelty_rank < 0:
        raise ValueError(f"`novelty_rank`: expected at least 0, found {config.novelty_rank}")
    check_label_limits(config)
    check_objective(config)


def check_label_limits(config):
    if (config.label_min is None) != (config.label_max is None):
        raise ValueError("expected both `label_min` and `label_max` or neither")
    if config.label_min is not None:
        low_high = list(zip(config.label_min, config.label_max))
        if len(config.label_min) != len(config.label_max) or not all(low < high for low, high in low_high):
            raise ValueError(
                f"expected `label_min` below `label_max` on each axis, found {config.label_min} and {config.label_max}"
            )


def check_objective(config):
    weights = config.iq_targets
    if not weights or not set(weights) <= set(IQ_TARGETS) or not all(0 < w < math.inf for w in weights.values()):
        raise ValueError(f"`iq_targets`: expected weights above 0 of some of {IQ_TARGETS}, found {weights}")
    if config.normalize_targets and "envelope" in weights and config.segment_length <= ENVELOPE_GROUP:
        raise ValueError(
            "`normalize_targets`: expected a `segment_length` above "
            f"{ENVELOPE_GROUP} beside the target 'envelope', found {config.segment_length}; "
            "a single value is standardised to 0 whatever it is"
        )
    if not 0 <= config.cross_view_masking <= 1:
        raise ValueError(f"`cross_view_masking`: expected 0 <= probability <= 1, found {config.cross_view_masking}")
    if config.cross_view_masking and len(config.modalities) < 2:
        raise ValueError(
            f"`cross_view_masking`: expected 0 for one modality alone, found {config.cross_view_masking} "
            f"with {list(config.modalities)}"
        )
    if not 0 <= config.contrastive_weight < math.inf:
        raise ValueError(f"`contrastive_weight`: expected a weight from 0, found {config.contrastive_weight}")
    if not 0 < config.contrastive_temperature < math.inf:
        raise ValueError(
            f"`contrastive_temperature`: expected a value above 0, found {config.contrastive_temperature}"
        )


def check_iq(iq_values: torch.Tensor, attention_mask: torch.Tensor | None, max_antennas: int):
    """IQ (B, A, 2, T) and optionally its mask (B, A, T)."""
    if iq_values.ndim != 4 or iq_values.shape[2] != 2 or 0 in iq_values.shape or not iq_values.is_floating_point():
        raise ValueError(
            "`iq_values`: expected a floating-point tensor (batch, antennas, 2, samples), none of them 0, "
            f"found {tuple(iq_values.shape)} of {iq_values.dtype}"
        )
    batch_size, antennas, _, samples = iq_values.shape
    if antennas > max_antennas:
        raise ValueError(f"`iq_values`: expected at most {max_antennas} antennas, found {antennas}")
    if attention_mask is not None and attention_mask.shape != (batch_size, antennas, samples):
        raise ValueError(
            f"`iq_attention_mask`: expected (batch, antennas, samples) = {(batch_size, antennas, samples)}, "
            f"found {tuple(attention_mask.shape)}"
        )
