"""Configuration of IQFM (arXiv 2506.06718), the IQ foundation model that the multimodal one is compared with."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checks_mmwfm import check_field_names, check_label_limits

# Every Auto class that a saved folder can be opened with, whichever of our classes saved it.
AUTO_MAP = {
    "AutoConfig": "configuration_iqfm.IQFMConfig",
    "AutoModel": "modeling_iqfm.IQFMModel",
    "AutoModelForPreTraining": "modeling_iqfm.IQFMForPreTraining",
    "AutoModelForSequenceClassification": "modeling_iqfm.IQFMForSequenceClassification",
    "AutoModelForAudioClassification": "modeling_iqfm.IQFMForSequenceClassification",
}


@strict
class IQFMConfig(PreTrainedConfig):
    r"""
    The defaults are ShuffleNetV2 0.5x. Fields that do not explain themselves:

    modalities: always IQ alone.
    num_antennas: antennas that the first convolution takes; missing ones are zeros.
    stem_channels: of the first convolution.
    stage_channels, stage_depths: channels and units of each stage; a last 1x1 convolution leads to `hidden_size`.
    projection_hidden_size, projection_size: of the two layers between features and the contrastive loss.
    temperature: of the contrastive loss.
    antenna_mask_ratio: probability of each antenna to be silenced in a view; one always stays.
    label_min, label_max: for regression, the box of the coordinates in metres, one value per axis; the loss is taken
        on coordinates scaled to [-1, 1].
    novelty_rank: see `MMWFMConfig`.
    """

    model_type = "iqfm"
    keys_to_ignore_at_inference = ["novelty"]

    modalities: list[str] | tuple[str, ...] = ("iq",)
    num_antennas: int = 4
    stem_channels: int = 24
    stage_channels: list[int] = field(default_factory=lambda: [48, 96, 192])
    stage_depths: list[int] = field(default_factory=lambda: [4, 8, 4])
    hidden_size: int = 1024
    initializer_range: float = 0.02

    projection_hidden_size: int = 512
    projection_size: int = 128
    temperature: float | int = 0.1
    antenna_mask_ratio: float | int = 0.5

    label_min: list[float | int] | None = None
    label_max: list[float | int] | None = None
    novelty_rank: int = 0

    def __post_init__(self, **kwargs):
        check_field_names(type(self), kwargs)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Called by `@strict` after construction; errors name the field, what was expected and what was found."""
        if list(self.modalities) != ["iq"]:
            raise ValueError(f"`modalities`: expected ['iq'], found {list(self.modalities)}")
        for name in ("num_antennas", "stem_channels", "hidden_size", "projection_hidden_size", "projection_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected at least 1, found {getattr(self, name)}")
        if not self.stage_channels or any(channels < 2 or channels % 2 for channels in self.stage_channels):
            raise ValueError(f"`stage_channels`: expected even numbers, found {self.stage_channels}")
        if len(self.stage_depths) != len(self.stage_channels) or min(self.stage_depths) < 1:
            raise ValueError(
                f"`stage_depths`: expected {len(self.stage_channels)} numbers of at least 1, found {self.stage_depths}"
            )
        if not 0 < self.temperature:
            raise ValueError(f"`temperature`: expected a number above 0, found {self.temperature}")
        if not 0 <= self.antenna_mask_ratio < 1:
            raise ValueError(f"`antenna_mask_ratio`: expected 0 <= ratio < 1, found {self.antenna_mask_ratio}")
        check_label_limits(self)
