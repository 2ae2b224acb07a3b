"""Configuration of the multimodal wireless foundation model (arXiv 2511.15162)."""

import difflib
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Every Auto class that a saved folder can be opened with, whichever of our classes saved it.
AUTO_MAP = {
    "AutoConfig": "configuration_mmwfm.MMWFMConfig",
    "AutoModel": "modeling_mmwfm.MMWFMModel",
    "AutoModelForPreTraining": "modeling_mmwfm.MMWFMForPreTraining",
    "AutoModelForSequenceClassification": "modeling_mmwfm.MMWFMForSequenceClassification",
    "AutoModelForImageClassification": "modeling_mmwfm.MMWFMForSequenceClassification",
    "AutoModelForAudioClassification": "modeling_mmwfm.MMWFMForSequenceClassification",
}

# Keys that transformers, peft and the quantisers write into any model's configuration beside its own fields.
LIBRARY_KEYS = {
    *("auto_map", "num_labels", "model_type", "torch_dtype", "name_or_path", "attn_implementation"),
    *("experts_implementation", "output_attentions", "quantization_config", "custom_pipelines"),
    *("use_cache", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "task_specific_params"),
}


@strict
class MMWFMConfig(PreTrainedConfig):
    r"""
    The defaults are the paper's model (Table I). Fields that do not explain themselves:

    modalities: input families that the model has parts for.
    num_channels: image channels that the patch projection takes and the decoder reconstructs.
    input_channels: image channels of the data, if other than `num_channels`; a 1x1 convolution then adapts them.
    segment_length: IQ samples per token and antenna (M).
    affine_position: where the learned per-feature scale and shift act: "projection" (paper, equations 4-7: on the
        projected token, before position and antenna vectors), "tokens" (released weights: on the whole sequence with
        position and antenna vectors and CLS) or "none".
    final_layer_norm_eps: of the norms that end encoder and decoder; `layer_norm_eps` is that of the blocks.
    pooling: "cls" or "mean" over real tokens (CLS not counted).
    mask_ratio_iq, mask_ratio_image: share of real tokens hidden in pretraining.
    iq_masking: "random" tokens or whole "antenna"s.
    normalize_targets: standardise every patch or segment before it is compared with its reconstruction.
    label_min, label_max: for regression, the box of the coordinates in metres, one value per axis; the loss is taken
        on coordinates scaled to [-1, 1].
    """

    model_type = "mmwfm"

    modalities: list[str] | tuple[str, ...] = ("iq", "image")

    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    intermediate_size: int = 1024
    decoder_hidden_size: int = 128
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 512
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    final_layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    patch_size: int = 16
    num_channels: int = 1
    input_channels: int | None = None
    segment_length: int = 16
    max_antennas: int = 16
    affine_position: Literal["projection", "tokens", "none"] = "projection"

    mask_ratio_iq: float | int = 0.7
    mask_ratio_image: float | int = 0.7
    iq_masking: Literal["random", "antenna"] = "random"
    normalize_targets: bool = False

    pooling: Literal["cls", "mean"] = "cls"
    label_min: list[float | int] | None = None
    label_max: list[float | int] | None = None

    def __post_init__(self, **kwargs):
        # The base class stores any unknown key; a misspelt field would then silently keep its default.
        if unknown := [key for key in kwargs if key not in LIBRARY_KEYS and not key.startswith("_")]:
            close = difflib.get_close_matches(unknown[0], type(self).__dataclass_fields__, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"expected the fields of {type(self).__name__}, found {', '.join(unknown)}{hint}")
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Called by `@strict` after construction; errors name the field, what was expected and what was found."""
        if sorted(self.modalities) not in (["iq"], ["image"], ["image", "iq"]):
            raise ValueError(f"`modalities`: expected some of 'iq' and 'image', found {list(self.modalities)}")
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width % 4 or heads < 1 or width % heads:
                raise ValueError(
                    f"`{prefix}hidden_size`: expected a multiple of 4 and of `{prefix}num_attention_heads`, "
                    f"found {width} with {heads} heads"
                )
        positive = ("num_hidden_layers", "decoder_num_hidden_layers", "intermediate_size", "decoder_intermediate_size")
        positive += ("hidden_size", "patch_size", "num_channels", "input_channels", "segment_length", "max_antennas")
        for name in positive:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected at least 1, found {getattr(self, name)}")
        for name in ("mask_ratio_iq", "mask_ratio_image"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected 0 <= ratio < 1, found {getattr(self, name)}")
        if (self.label_min is None) != (self.label_max is None):
            raise ValueError("expected both `label_min` and `label_max` or neither")
        if self.label_min is not None:
            low_high = list(zip(self.label_min, self.label_max))
            if len(self.label_min) != len(self.label_max) or not all(low < high for low, high in low_high):
                raise ValueError(
                    f"expected `label_min` below `label_max` on each axis, found {self.label_min} and {self.label_max}"
                )
