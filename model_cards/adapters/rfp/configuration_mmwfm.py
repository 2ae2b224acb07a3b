"""Configuration of the multimodal wireless foundation model (arXiv 2511.15162)."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checks_mmwfm import check_architecture, check_field_names
from .pipeline_mmwfm import custom_pipelines

# Every Auto class that a saved folder can be opened with, whichever of our classes saved it.
AUTO_MAP = {
    "AutoConfig": "configuration_mmwfm.MMWFMConfig",
    "AutoModel": "modeling_mmwfm.MMWFMModel",
    "AutoModelForPreTraining": "modeling_mmwfm.MMWFMForPreTraining",
    "AutoModelForSequenceClassification": "modeling_mmwfm.MMWFMForSequenceClassification",
    "AutoModelForImageClassification": "modeling_mmwfm.MMWFMForSequenceClassification",
    "AutoModelForAudioClassification": "modeling_mmwfm.MMWFMForSequenceClassification",
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
    iq_input: what the IQ projection takes of a segment: its samples ("waveform", the paper) or its samples and their
        log-spectrum (`objectives_mmwfm.log_spectrum`) side by side ("waveform_log_spectrum", 3M values).
    pooling: "cls", "mean" over real tokens (CLS not counted) or "mean_std", their mean, then their standard deviation
        (2D values).
    mask_ratio_iq, mask_ratio_image: share of real tokens hidden in pretraining.
    iq_masking: "random" tokens or whole "antenna"s.
    cross_view_masking: probability with which a sample that has both IQ and an image has one of them, drawn evenly,
        hidden whole, to be reconstructed from the other.
    iq_targets: what is reconstructed of an IQ segment, and with which weight in `iq_loss`: some of "waveform" (the
        paper), "log_spectrum" and "envelope" (`objectives_mmwfm.iq_targets`); their order means nothing.
    normalize_targets: standardise every patch, or every target of a segment on its own, before it is compared with
        its reconstruction.
    contrastive_weight: weight in the pretraining loss of InfoNCE between two views of a recording; 0: no such part.
    contrastive_temperature, contrastive_size: its temperature, and the width that pooled features are projected to.
    label_min, label_max: for regression, the box of the coordinates in metres, one value per axis; the loss is taken
        on coordinates scaled to [-1, 1].
    novelty_rank: directions by which the head tells how far an input lies outside of its training rows (`MMWFMHead`);
        0: it does not.
    """

    model_type = "mmwfm"
    keys_to_ignore_at_inference = ["novelty"]  # of Trainer, whose metrics see logits alone

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
    iq_input: Literal["waveform", "waveform_log_spectrum"] = "waveform"
    affine_position: Literal["projection", "tokens", "none"] = "projection"

    mask_ratio_iq: float | int = 0.7
    mask_ratio_image: float | int = 0.7
    iq_masking: Literal["random", "antenna"] = "random"
    cross_view_masking: float | int = 0.0
    iq_targets: dict[str, float | int] = field(default_factory=lambda: {"waveform": 1.0})
    normalize_targets: bool = False
    contrastive_weight: float | int = 0.0
    contrastive_temperature: float | int = 0.1
    contrastive_size: int = 128

    pooling: Literal["cls", "mean", "mean_std"] = "cls"
    label_min: list[float | int] | None = None
    label_max: list[float | int] | None = None
    novelty_rank: int = 0

    def __post_init__(self, **kwargs):
        check_field_names(type(self), kwargs)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        kwargs.setdefault("custom_pipelines", custom_pipelines())
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Called by `@strict` after construction; errors name the field, what was expected and what was found."""
        check_architecture(self)
