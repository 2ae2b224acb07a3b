"""IQFM (arXiv 2506.06718): ShuffleNetV2 over time for IQ streams, pretrained by telling recordings apart (SimCLR).

Letters in shape comments: B batch, A antennas, T samples, C channels, F frames (samples after down-sampling), D width.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .adapter_opening_mmwfm import OpensAdapters
from .checks_mmwfm import check_iq
from .configuration_iqfm import IQFMConfig
from .task_head_mmwfm import MMWFMClassifierOutput, MMWFMHead, classify, make_classifier


@dataclass
class IQFMForPreTrainingOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor` of shape `()`): of `simclr_loss`.
        projections (`torch.Tensor` of shape `(2, batch_size, projection_size)`): of both views of every recording.
    """

    loss: torch.FloatTensor | None = None
    projections: torch.FloatTensor | None = None


class IQFMBatchNorm(nn.BatchNorm1d):
    """Frozen, it also keeps its statistics: a frozen encoder stays the same whatever trains around it."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(mode and self.weight.requires_grad)


class IQFMConvolution(nn.Module):
    """Convolution over time, batch norm and ReLU."""

    def __init__(self, channels: tuple[int, int], kernel_size=1, stride=1, groups=1, activation: bool = True):
        super().__init__()
        self.convolution = nn.Conv1d(*channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.norm = IQFMBatchNorm(channels[1])
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.norm(self.convolution(hidden_states)))


def silence(hidden_states: torch.Tensor, is_real: torch.Tensor | None) -> torch.Tensor:
    """Zeros at padding, as beyond the end of a recording that is not padded."""
    return hidden_states if is_real is None else hidden_states * is_real


def halve(is_real: torch.Tensor | None) -> torch.Tensor | None:
    """Of (B, 1, F), after a stride of 2: a frame is as real as the one that it is centred on."""
    return None if is_real is None else is_real[..., ::2]


class IQFMUnit(nn.Module):
    """Half of the channels is kept, half convolved, then both are shuffled; with a stride both halves are convolved."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        half, inside = out_channels // 2, channels if stride > 1 else channels // 2
        self.shortcut = None
        if stride > 1:
            depthwise = IQFMConvolution((channels, channels), 3, stride, groups=channels, activation=False)
            project = IQFMConvolution((channels, half))
            self.shortcut = nn.Sequential(OrderedDict(depthwise=depthwise, project=project))
        self.expand = IQFMConvolution((inside, half))
        self.depthwise = IQFMConvolution((half, half), 3, stride, groups=half, activation=False)
        self.project = IQFMConvolution((half, half))

    def forward(self, hidden_states: torch.Tensor, is_real: torch.Tensor | None) -> torch.Tensor:
        if self.shortcut is None:
            kept, hidden_states = hidden_states.chunk(2, dim=1)
        else:
            kept = self.shortcut(silence(hidden_states, is_real))
        hidden_states = self.project(self.depthwise(silence(self.expand(hidden_states), is_real)))
        return torch.stack([kept, hidden_states], dim=2).flatten(1, 2)  # channels of both in turns


class IQFMStage(nn.Module):
    """Units of one width, of which the first halves the frames."""

    def __init__(self, channels: int, out_channels: int, depth: int):
        super().__init__()
        sizes = [(channels, 2)] + [(out_channels, 1)] * (depth - 1)
        self.units = nn.ModuleList([IQFMUnit(size, out_channels, stride) for size, stride in sizes])

    def forward(self, hidden_states: torch.Tensor, is_real: torch.Tensor | None):
        for number, unit in enumerate(self.units):
            hidden_states = unit(hidden_states, is_real)
            is_real = halve(is_real) if number == 0 else is_real
        return hidden_states, is_real


class IQFMPreTrainedModel(OpensAdapters, PreTrainedModel):
    config_class = IQFMConfig
    base_model_prefix = "iqfm"
    main_input_name = "iq_values"
    input_modalities = ("iq",)
    _no_split_modules = ["IQFMUnit"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Through `init` alone: it leaves tensors untouched that were just loaded.
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)
        else:
            super()._init_weights(module)
        if isinstance(module, MMWFMHead):
            for buffer in module.buffers():  # of a base that knows no training rows
                init.zeros_(buffer)


class IQFMModel(IQFMPreTrainedModel):
    """The encoder: IQ streams -> features of every frame and their mean."""

    _keys_to_ignore_on_load_unexpected = [r"^projection\.", r"^classifier\."]

    def __init__(self, config: IQFMConfig):
        super().__init__(config)
        config.validate_architecture()
        self.stem = IQFMConvolution((2 * config.num_antennas, config.stem_channels), 3, stride=2)
        self.pool = nn.MaxPool1d(3, stride=2, padding=1)
        widths = [config.stem_channels, *config.stage_channels]
        stages = [IQFMStage(*sizes) for sizes in zip(widths, widths[1:], config.stage_depths)]
        self.stages = nn.ModuleList([*stages, IQFMConvolution((widths[-1], config.hidden_size))])
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.stem

    @can_return_tuple
    def forward(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            iq_values (`torch.FloatTensor` of shape `(batch_size, num_antennas, 2, num_samples)`): I, then Q, of any
                scale: each recording is divided by its largest magnitude. Missing antennas are zeros.
            iq_attention_mask (`torch.Tensor` of shape `(batch_size, num_antennas, num_samples)`): 1 = real sample. The
                result is that of the recording without its padding (in training only nearly so: batch norm sees
                padded frames).
            pixel_values: refused.

        Returns:
            `last_hidden_state` of shape `(batch_size, ceil(num_samples / 32), hidden_size)`, 0 at padding;
            `pooler_output` of shape `(batch_size, hidden_size)`.

        Raises:
            ValueError: no IQ, images, or IQ of wrong rank or type or of too many antennas.
        """
        if iq_values is None or pixel_values is not None:
            raise ValueError("expected `iq_values` alone, found " + ("none" if iq_values is None else "images"))
        check_iq(iq_values, iq_attention_mask, self.config.num_antennas)
        is_real = None
        # A mask without padding would only cost time; while a graph is traced its values cannot be looked at.
        if iq_attention_mask is not None and (torch.compiler.is_compiling() or not iq_attention_mask.all()):
            iq_values = iq_values.masked_fill(~iq_attention_mask.bool()[:, :, None], 0)
            is_real = iq_attention_mask.bool().any(1, keepdim=True).to(self.dtype)
        iq_values = iq_values.float()
        largest = torch.hypot(iq_values[:, :, 0], iq_values[:, :, 1]).amax((1, 2))
        iq_values = iq_values / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None, None, None]
        hidden_states = iq_values.to(self.dtype).flatten(1, 2)
        missing = 2 * self.config.num_antennas - hidden_states.shape[1]
        hidden_states = self.stem(nn.functional.pad(hidden_states, (0, 0, 0, missing)))
        is_real = halve(is_real)
        hidden_states = self.pool(silence(hidden_states, is_real))  # after a ReLU zeros are never the largest alone
        is_real = halve(is_real)
        *stages, last = self.stages
        for stage in stages:
            hidden_states, is_real = stage(hidden_states, is_real)
        hidden_states = silence(last(hidden_states), is_real).transpose(1, 2)  # (B, F, D)
        if is_real is None:
            pooled = hidden_states.mean(1)
        else:
            pooled = hidden_states.sum(1) / is_real.sum(2).clamp(min=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


def draw_view(
    iq_values: torch.Tensor, attention_mask: torch.Tensor | None, antenna_mask_ratio: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One view of every recording: shifted in time by any number of samples, round its end, and some antennas silent.

    Draws from torch's global generator.

    Args:
        iq_values: (B, A, 2, T); attention_mask: (B, A, T) or None, real samples first.

    Returns:
        the view and its mask, in which silent antennas stay real.
    """
    batch_size, antennas, _, samples = iq_values.shape
    device = iq_values.device
    shift, keep = torch.rand(batch_size, 1, device=device), torch.rand(batch_size, antennas, device=device)
    time, length = torch.arange(samples, device=device), samples
    if attention_mask is not None:
        length = attention_mask.bool().any(1).sum(1, keepdim=True).clamp(min=1)
        keep = keep.masked_fill(~attention_mask.bool().any(2), -1)
    index = torch.where(time < length, (time + (shift * length).long()) % length, time)  # (B, T)
    iq_values = iq_values.gather(3, index[:, None, None].expand_as(iq_values))
    if attention_mask is not None:
        attention_mask = attention_mask.gather(2, index[:, None].expand_as(attention_mask))
    kept = (keep >= antenna_mask_ratio) | (keep == keep.amax(1, keepdim=True))
    return iq_values * kept[:, :, None, None], attention_mask


def simclr_loss(projections: torch.Tensor, temperature: float) -> torch.Tensor:
    """SimCLR's loss: of all other views in the batch, which one is of the same recording? In float32.

    Args:
        projections: (2, B, D).
    """
    count = projections.shape[1]
    with torch.autocast(projections.device.type, enabled=False):
        unit = nn.functional.normalize(projections.flatten(0, 1).float(), dim=-1)
        similarity = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * count, device=unit.device).roll(count)
    return nn.functional.cross_entropy(similarity, partner)


class IQFMForPreTraining(IQFMPreTrainedModel):
    """SimCLR: two views of every recording, and a loss that draws them together and apart from all others."""

    def __init__(self, config: IQFMConfig):
        super().__init__(config)
        self.iqfm = IQFMModel(config)
        self.projection = nn.Sequential(
            nn.Linear(config.hidden_size, config.projection_hidden_size),
            nn.ReLU(),
            nn.Linear(config.projection_hidden_size, config.projection_size),
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
    ) -> IQFMForPreTrainingOutput:
        r"""
        Args:
            iq_values, iq_attention_mask, pixel_values: as for `IQFMModel`; views are drawn from torch's global
                generator.

        Raises:
            ValueError: in training, one recording alone, from which nothing can be told apart.
        """
        if iq_values is None:
            raise ValueError("expected `iq_values`, found none")
        check_iq(iq_values, iq_attention_mask, self.config.num_antennas)
        if self.training and iq_values.shape[0] < 2:
            raise ValueError("`iq_values`: expected at least two recordings to train on, found 1")
        views = [draw_view(iq_values, iq_attention_mask, self.config.antenna_mask_ratio) for _ in range(2)]
        values, masks = (None if part[0] is None else torch.cat(part) for part in zip(*views))
        pooled = self.iqfm(values, masks, pixel_values, return_dict=True).pooler_output
        projections = self.projection(pooled).unflatten(0, (2, -1))
        return IQFMForPreTrainingOutput(
            loss=simclr_loss(projections, self.config.temperature), projections=projections
        )


class IQFMForSequenceClassification(IQFMPreTrainedModel):
    """One linear layer on the pooled features: classes, or coordinates in metres."""

    _keys_to_ignore_on_load_unexpected = [r"^projection\."]

    def __init__(self, config: IQFMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.iqfm = IQFMModel(config)
        self.classifier = make_classifier(config, config.hidden_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> MMWFMClassifierOutput:
        r"""
        Args:
            iq_values, iq_attention_mask, pixel_values: as for `IQFMModel`.
            labels: class indices of shape `(batch_size,)`, or for regression values of shape
                `(batch_size, num_labels)` in metres.

        Returns:
            `loss`, `logits` and `novelty`, see `classify`.
        """
        outputs = self.iqfm(iq_values, iq_attention_mask, pixel_values, return_dict=True)
        return classify(self.classifier, outputs, labels, self.config)
