"""Multimodal wireless foundation model (arXiv 2511.15162): one ViT encoder for IQ and image-like wireless data.

Letters in shape comments: B batch, A antennas, T samples, S segments per antenna, M samples per segment, C channels,
H x W image, P patch size, N tokens of one input family, K visible tokens, V values per token, D width.

Masks have one polarity each, here and everywhere: an *attention mask* is 1 at real data and 0 at padding; a
*reconstruction mask* (`iq_mask`, `image_mask`) is 1 at real tokens that were hidden from the encoder.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .adapter_opening_mmwfm import OpensAdapters
from .attention_mmwfm import choose_attention
from .checks_mmwfm import check_iq
from .configuration_mmwfm import MMWFMConfig
from .objectives_mmwfm import (
    MMWFMForPreTrainingOutput,
    contrastive_loss,
    iq_reconstruction_loss,
    iq_target_sizes,
    log_spectrum,
    reconstruction_loss,
)
from .task_head_mmwfm import MMWFMClassifierOutput, classify, make_classifier
from .tokens_mmwfm import (
    MMWFMTokens,
    MMWFMVisible,
    draw_visible,
    hide_views,
    patchify,
    pool_tokens,
    segment,
    sincos_grid,
    sincos_positions,
    take_tokens,
)


class MMWFMAffine(nn.Module):
    """Learned scale and shift of every feature, one pair per input family: g * x + h (equations 4-7)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.weight + self.bias


class MMWFMIQPositions(nn.Module):
    """Where an IQ token comes from: its segment (fixed sin-cos) and its antenna (learned)."""

    def __init__(self, config: MMWFMConfig, hidden_size: int):
        super().__init__()
        self.antenna_embeddings = nn.Embedding(config.max_antennas, hidden_size)

    def forward(self, grid: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """(segments, antennas) -> (N, D), on the device and of the type of `like`"""
        segments, antennas = (torch.arange(size, device=like.device) for size in grid)
        antenna = self.antenna_embeddings(antennas)
        time = sincos_positions(segments, antenna.shape[-1])
        return (time[:, None] + antenna).flatten(0, 1).to(like.dtype)


class MMWFMImagePositions(nn.Module):
    """Where an image token comes from: its row and column (fixed sin-cos)."""

    def __init__(self, config: MMWFMConfig, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, grid: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """(rows, columns) -> (N, D), on the device and of the type of `like`"""
        return sincos_grid(*grid, self.hidden_size, device=like.device).to(like.dtype)


class MMWFMEmbeddings(nn.Module):
    """Tokens of one input family -> vectors: projection, affine, position (equations 4-7)."""

    def __init__(self, config: MMWFMConfig, num_values: int, positions: nn.Module):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(num_values, config.hidden_size)
        self.affine = MMWFMAffine(config.hidden_size) if config.affine_position != "none" else None
        self.positions = positions

    def forward(self, tokens: MMWFMTokens, index: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens, or those at `index` (B, K) alone, -> (B, N or K, D)."""
        values, positions = tokens.values, self.positions(tokens.grid, like=tokens.values)
        value_is_real = tokens.value_is_real
        if index is not None:
            # Not `positions[index]`: threads of a CPU sum its gradient in an order that differs from run to run.
            values, positions = take_tokens(values, index), nn.functional.embedding(index, positions)
            if value_is_real is not None:
                value_is_real = take_tokens(value_is_real.expand(index.shape[0], -1, -1), index)
        hidden_states = self.projection(self.features(values, value_is_real))
        if self.config.affine_position == "projection":
            hidden_states = self.affine(hidden_states)
        return hidden_states + positions

    def features(self, values: torch.Tensor, value_is_real: torch.Tensor | None) -> torch.Tensor:
        """What the projection takes of the tokens' values (B, N, V)."""
        return values


class MMWFMIQEmbeddings(MMWFMEmbeddings):
    """IQ streams -> tokens of one segment and antenna each."""

    def __init__(self, config: MMWFMConfig):
        num_values = (2 if config.iq_input == "waveform" else 3) * config.segment_length
        super().__init__(config, num_values, MMWFMIQPositions(config, config.hidden_size))

    def features(self, values: torch.Tensor, value_is_real: torch.Tensor | None) -> torch.Tensor:
        """(B, N, 2M) -> the same, or with the log-spectrum of each segment (B, N, 3M)."""
        if self.config.iq_input == "waveform":
            return values
        return torch.cat([values, log_spectrum(values, value_is_real).to(values.dtype)], dim=-1)

    def tokenize(
        self, iq_values: torch.Tensor, attention_mask: torch.Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> MMWFMTokens:
        """(B, A, 2, T) and optionally (B, A, T) -> tokens of V = 2 * M values: M of I, then M of Q."""
        check_iq(iq_values, attention_mask, self.config.max_antennas)
        antennas, _, samples = iq_values.shape[1:]
        length = self.config.segment_length
        # A mask without padding would only cost time; while a graph is traced its values cannot be looked at.
        if attention_mask is not None and not torch.compiler.is_compiling() and attention_mask.all():
            attention_mask = None
        is_real = value_is_real = None
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
            iq_values = iq_values.masked_fill(~attention_mask[:, :, None], 0)
            sample_is_real = segment(attention_mask[:, :, None], length)
            is_real, value_is_real = sample_is_real.any(-1), sample_is_real.repeat(1, 1, 2)
        elif samples % length:
            sample_is_real = torch.ones(1, antennas, 1, samples, dtype=torch.bool, device=iq_values.device)
            value_is_real = segment(sample_is_real, length).repeat(1, 1, 2)
        values = segment(iq_values.to(dtype), length)
        return MMWFMTokens(values, (values.shape[1] // antennas, antennas), is_real, value_is_real)


class MMWFMImageEmbeddings(MMWFMEmbeddings):
    """Spectrograms and CSI -> tokens of one patch each."""

    def __init__(self, config: MMWFMConfig):
        num_values = config.patch_size**2 * config.num_channels
        super().__init__(config, num_values, MMWFMImagePositions(config, config.hidden_size))
        self.input_channels = config.input_channels or config.num_channels
        self.channel_adapter = (
            nn.Conv2d(self.input_channels, config.num_channels, kernel_size=1, bias=False)
            if self.input_channels != config.num_channels
            else None
        )

    def tokenize(self, pixel_values: torch.Tensor, dtype: torch.dtype = torch.float32) -> MMWFMTokens:
        """(B, C, H, W) -> tokens of V = P * P * num_channels values, ordered (row, column, channel)."""
        if pixel_values.ndim != 4 or 0 in pixel_values.shape or not pixel_values.is_floating_point():
            raise ValueError(
                "`pixel_values`: expected a floating-point tensor (batch, channels, height, width), none of them 0, "
                f"found {tuple(pixel_values.shape)} of {pixel_values.dtype}"
            )
        _, channels, height, width = pixel_values.shape
        patch_size = self.config.patch_size
        if channels != self.input_channels:
            raise ValueError(
                f"`pixel_values`: expected {self.input_channels} channels, found {channels}; "
                f"`from_pretrained(..., input_channels={channels})` adds an adapter"
            )
        if height % patch_size or width % patch_size:
            raise ValueError(
                f"`pixel_values`: expected height and width divisible by the patch size {patch_size}, "
                f"found {height} x {width}"
            )
        pixel_values = pixel_values.to(dtype)
        if self.channel_adapter is not None:
            pixel_values = self.channel_adapter(pixel_values)
        return MMWFMTokens(patchify(pixel_values, patch_size), (height // patch_size, width // patch_size), None, None)


class MMWFMAttention(nn.Module):
    def __init__(self, config: MMWFMConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        batch_size, num_tokens, _ = hidden_states.shape
        if torch.is_autocast_enabled(hidden_states.device.type):  # once, not in each projection
            hidden_states = hidden_states.to(torch.get_autocast_dtype(hidden_states.device.type))
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (
            project(hidden_states).view(batch_size, num_tokens, -1, self.head_dim).transpose(1, 2)
            for project in projections
        )
        attend = choose_attention(self.config._attn_implementation, query, key, attention_mask)
        output, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(batch_size, num_tokens, -1)), weights


class MMWFMMLP(nn.Module):
    def __init__(self, config: MMWFMConfig, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class MMWFMLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: MMWFMConfig, hidden_size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = MMWFMAttention(config, hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = MMWFMMLP(config, hidden_size, intermediate_size)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states), attention_mask, **kwargs)[0]
        return hidden_states + self.mlp(self.norm2(hidden_states))


class MMWFMPreTrainedModel(OpensAdapters, PreTrainedModel):
    config_class = MMWFMConfig
    base_model_prefix = "mmwfm"
    main_input_name = "iq_values"
    input_modalities = ("iq", "image")
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMWFMLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": MMWFMLayer, "attentions": MMWFMAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Through `init` alone: it leaves tensors untouched that were just loaded.
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):  # the channel adapter starts as the average of the channels
            init.constant_(module.weight, 1 / module.in_channels)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, (nn.LayerNorm, MMWFMAffine)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MMWFMModel):
            init.normal_(module.cls_token, std=std)
        elif isinstance(module, MMWFMDecoder):
            init.normal_(module.mask_token, std=std)


class MMWFMModel(MMWFMPreTrainedModel):
    """The encoder: IQ, images or both -> token features and one pooled feature vector."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^contrastive_head\.", r"^classifier\."]

    def __init__(self, config: MMWFMConfig):
        super().__init__(config)
        config.validate_architecture()
        self.iq_embeddings = MMWFMIQEmbeddings(config) if "iq" in config.modalities else None
        self.image_embeddings = MMWFMImageEmbeddings(config) if "image" in config.modalities else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        self.layers = nn.ModuleList([MMWFMLayer(config, *sizes) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.final_layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.iq_embeddings or self.image_embeddings

    def embeddings_of(self, family: str) -> nn.Module:
        return self.iq_embeddings if family == "iq" else self.image_embeddings

    def tokenize(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
    ) -> dict[str, MMWFMTokens]:
        """Cut the inputs into tokens, by family ("iq", "image"); arguments as in `forward`."""
        given = {"iq": iq_values, "image": pixel_values}
        given = {family: values for family, values in given.items() if values is not None}
        if not given:
            raise ValueError("expected `iq_values`, `pixel_values` or both, found neither")
        if absent := set(given) - set(self.config.modalities):
            raise ValueError(
                f"expected input of this checkpoint's modalities {self.config.modalities}, found {absent}"
            )
        if iq_attention_mask is not None and iq_values is None:
            raise ValueError("expected `iq_values` beside `iq_attention_mask`, found none")
        tokens, dtype = {}, self.cls_token.dtype
        if iq_values is not None:
            tokens["iq"] = self.iq_embeddings.tokenize(iq_values, iq_attention_mask, dtype)
        if pixel_values is not None:
            tokens["image"] = self.image_embeddings.tokenize(pixel_values, dtype)
        # Sizes from `shape`: `len` would fix the batch size of an exported graph.
        if len(tokens) == 2 and iq_values.shape[0] != pixel_values.shape[0]:
            raise ValueError(f"expected as many IQ samples as images, found {len(iq_values)} and {len(pixel_values)}")
        return tokens

    def encode(self, embeddings: dict[str, torch.Tensor], is_real: dict[str, torch.Tensor | None], **kwargs):
        """Token embeddings (B, N, D) by family -> features (B, 1 + sum of N, D) and attention mask or None."""
        parts = list(embeddings.values())
        cls = self.cls_token.expand(parts[0].shape[0], -1, -1)
        if self.config.affine_position == "tokens":
            affines = [self.embeddings_of(family).affine for family in embeddings]
            parts = [affine(part) for affine, part in zip(affines, parts)]
            cls = torch.stack([affine(cls) for affine in affines]).mean(0)
        hidden_states = torch.cat([cls, *parts], dim=1)
        attention_mask = None
        if any(real is not None for real in is_real.values()):
            ones = {family: part.new_ones(part.shape[:2], dtype=torch.bool) for family, part in embeddings.items()}
            real = [ones[family] if is_real[family] is None else is_real[family] for family in embeddings]
            attention_mask = torch.cat([real[0].new_ones(cls.shape[0], 1), *real], dim=1)
        hidden_states = run_layers(self.layers, self.config, hidden_states, attention_mask, **kwargs)
        return self.norm(hidden_states), attention_mask

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            iq_values (`torch.FloatTensor` of shape `(batch_size, num_antennas, 2, num_samples)`): I, then Q.
            iq_attention_mask (`torch.Tensor` of shape `(batch_size, num_antennas, num_samples)`): 1 = real sample.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`).

        Returns:
            `last_hidden_state` of shape `(batch_size, 1 + num_tokens, hidden_size)`: CLS, IQ tokens by segment, then
            antenna, image tokens by row, then column; `pooler_output` of shape `(batch_size, hidden_size)`, with
            `config.pooling` "mean_std" `(batch_size, 2 * hidden_size)`.

        Raises:
            ValueError: no input, or one of wrong rank, type, channels, antennas or size.
        """
        tokens = self.tokenize(iq_values, iq_attention_mask, pixel_values)
        embeddings = {family: self.embeddings_of(family)(part) for family, part in tokens.items()}
        is_real = {family: part.is_real for family, part in tokens.items()}
        hidden_states, attention_mask = self.encode(embeddings, is_real, **kwargs)
        if self.config.pooling == "cls":
            pooled = hidden_states[:, 0]
        else:
            is_real = None if attention_mask is None else attention_mask[:, 1:]
            pooled = pool_tokens(hidden_states[:, 1:], is_real, with_std=self.config.pooling == "mean_std")
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


def run_layers(layers, config, hidden_states, attention_mask, **kwargs) -> torch.Tensor:
    """Blocks one after another; padding (0 in the (B, N) mask) is never attended to."""
    attention_mask = create_bidirectional_mask(config, hidden_states, attention_mask)
    for layer in layers:
        hidden_states = layer(hidden_states, attention_mask, **kwargs)
    return hidden_states


class MMWFMDecoder(nn.Module):
    """Visible token features -> reconstruction of every token."""

    def __init__(self, config: MMWFMConfig):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        self.projection = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = {"iq": MMWFMIQPositions, "image": MMWFMImagePositions}
        num_values = {"iq": sum(iq_target_sizes(config).values())}
        num_values["image"] = config.patch_size**2 * config.num_channels
        self.positions = nn.ModuleDict({family: positions[family](config, width) for family in config.modalities})
        self.heads = nn.ModuleDict({family: nn.Linear(width, num_values[family]) for family in config.modalities})
        sizes = (width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
        self.layers = nn.ModuleList([MMWFMLayer(config, *sizes) for _ in range(config.decoder_num_hidden_layers)])
        self.norm = nn.LayerNorm(width, eps=config.final_layer_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, tokens: dict[str, MMWFMTokens], visible: dict[str, MMWFMVisible]
    ) -> dict[str, torch.Tensor]:
        """Encoder output (B, 1 + sum of K, D) -> by family (B, N, V)."""
        hidden_states = self.projection(hidden_states)
        cls, *seen = hidden_states.split([1, *(part.index.shape[1] for part in visible.values())], dim=1)
        parts, real = [cls], [cls.new_ones(cls.shape[:2], dtype=torch.bool)]
        for (family, part), values in zip(tokens.items(), seen):
            index, is_real, mask = visible[family]
            mask_token = self.mask_token.to(values.dtype)
            if is_real is not None:
                values = torch.where(is_real[..., None], values, mask_token)
            full = mask_token.expand(*mask.shape, -1)
            full = full.scatter(1, index[..., None].expand(-1, -1, full.shape[-1]), values)
            parts.append(full + self.positions[family](part.grid, like=full))
            real.append(real[0].new_ones(mask.shape) if part.is_real is None else part.is_real)
        has_padding = any(part.is_real is not None for part in tokens.values())
        hidden_states = run_layers(
            self.layers, self.config, torch.cat(parts, dim=1), torch.cat(real, dim=1) if has_padding else None
        )
        hidden_states = self.norm(hidden_states)[:, 1:].split(
            [part.values.shape[1] for part in tokens.values()], dim=1
        )
        return {family: self.heads[family](part) for family, part in zip(tokens, hidden_states)}


class MMWFMForPreTraining(MMWFMPreTrainedModel):
    """Masked wireless modeling: the encoder sees the visible tokens alone, the decoder reconstructs all."""

    def __init__(self, config: MMWFMConfig):
        super().__init__(config)
        if config.input_channels not in (None, config.num_channels):
            raise ValueError(
                "`input_channels`: expected none in pretraining, which reconstructs the `num_channels` channels "
                f"themselves, found {config.input_channels}"
            )
        self.mmwfm = MMWFMModel(config)
        self.decoder = MMWFMDecoder(config)
        self.contrastive_head = None
        if config.contrastive_weight:
            self.contrastive_head = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size),
                ACT2FN[config.hidden_act],
                nn.Linear(config.hidden_size, config.contrastive_size),
            )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        iq_noise: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        view_noise: torch.Tensor | None = None,
        positive_iq_values: torch.Tensor | None = None,
        positive_iq_attention_mask: torch.Tensor | None = None,
        positive_pixel_values: torch.Tensor | None = None,
        **kwargs,
    ) -> MMWFMForPreTrainingOutput:
        r"""
        Args:
            iq_values, iq_attention_mask, pixel_values: as for `MMWFMModel`.
            iq_noise, image_noise (`torch.FloatTensor` of shape `(batch_size, num_tokens)`): the tokens of lowest
                noise stay visible; drawn uniformly if not given.
            view_noise (`torch.FloatTensor` of shape `(batch_size, 2)`): with IQ and image, a sample whose first value
                is below `config.cross_view_masking` has one of them hidden whole: IQ if the second is below 0.5,
                else the image. Drawn uniformly if not given.
            positive_iq_values, positive_iq_attention_mask, positive_pixel_values: of each sample's recording a second
                view, of either family or both, for the contrastive loss: of both views the visible tokens (those of
                the second are drawn) are encoded, averaged and projected. Every process of a distributed run takes
                its negatives from its own part of the batch.

        Raises:
            ValueError: as `MMWFMModel`; noise of a wrong shape; `view_noise` without two families; a second view of
                another batch size, or with `config.contrastive_weight` 0.
        """
        tokens = self.mmwfm.tokenize(iq_values, iq_attention_mask, pixel_values)
        visible = self.draw_visible(tokens, {"iq": iq_noise, "image": image_noise}, view_noise)
        hidden_states, attention_mask = self.encode_visible(tokens, visible, **kwargs)
        predictions = self.decoder(hidden_states, tokens, visible)
        output = MMWFMForPreTrainingOutput()
        for family, part in tokens.items():
            mask = visible[family].mask.float()
            if family == "iq":
                loss = iq_reconstruction_loss(predictions[family], part, mask, self.config)
            else:
                loss = reconstruction_loss(
                    predictions[family], part.values, part.value_is_real, mask, self.config.normalize_targets
                )
            output[f"{family}_loss"] = loss
            output[f"{family}_logits"], output[f"{family}_mask"] = predictions[family], mask
        output["loss"] = sum(output[f"{family}_loss"] for family in tokens)
        positive = (positive_iq_values, positive_iq_attention_mask, positive_pixel_values)
        if any(part is not None for part in positive):
            output["contrastive_loss"] = self.contrast(hidden_states, attention_mask, positive, **kwargs)
            output["loss"] = output["loss"] + self.config.contrastive_weight * output["contrastive_loss"]
        return output

    def draw_visible(
        self, tokens: dict[str, MMWFMTokens], noise: dict[str, torch.Tensor | None], view_noise: torch.Tensor | None
    ) -> dict[str, MMWFMVisible]:
        """What the encoder sees of each family; noise that is None is drawn."""
        ratio = {"iq": self.config.mask_ratio_iq, "image": self.config.mask_ratio_image}
        visible = {}
        for family, part in tokens.items():
            values = noise[family]
            if values is None:
                values = torch.rand(part.values.shape[:2], device=part.values.device)
            whole_antennas = family == "iq" and self.config.iq_masking == "antenna"
            visible[family] = draw_visible(part, values, ratio[family], whole_antennas)
        if view_noise is not None and len(tokens) < 2:
            raise ValueError(f"expected IQ and image beside `view_noise`, found {list(tokens)} alone")
        if self.config.cross_view_masking and len(tokens) == 2:
            if view_noise is None:
                view_noise = torch.rand(len(visible["iq"].mask), 2, device=visible["iq"].mask.device)
            visible = hide_views(visible, tokens, view_noise, self.config.cross_view_masking)
        return visible

    def encode_visible(self, tokens: dict[str, MMWFMTokens], visible: dict[str, MMWFMVisible], **kwargs):
        embeddings = {f: self.mmwfm.embeddings_of(f)(part, visible[f].index) for f, part in tokens.items()}
        return self.mmwfm.encode(embeddings, {f: part.is_real for f, part in visible.items()}, **kwargs)

    def contrast(self, hidden_states, attention_mask, positive, **kwargs) -> torch.Tensor:
        """InfoNCE between encoded tokens (B, 1 + sum of K, D) with their mask and the second view."""
        if self.contrastive_head is None:
            raise ValueError(
                "expected no second view (`positive_...`) with `contrastive_weight` 0, which makes no use of it"
            )
        try:
            tokens = self.mmwfm.tokenize(*positive)
        except ValueError as error:
            raise ValueError(f"second view (`positive_...`): {error}") from error
        size, positive_size = len(hidden_states), len(next(iter(tokens.values())).values)
        if positive_size != size:
            raise ValueError(
                f"expected as many second views (`positive_...`) as first, found {positive_size} of {size}"
            )
        visible = self.draw_visible(tokens, {"iq": None, "image": None}, None)
        views = [(hidden_states, attention_mask), self.encode_visible(tokens, visible, **kwargs)]
        masks = [mask if mask is None else mask[:, 1:] for _, mask in views]
        pooled = [pool_tokens(states[:, 1:], mask) for (states, _), mask in zip(views, masks)]
        is_real = [mask.any(1) for mask in masks if mask is not None]
        return contrastive_loss(
            *(self.contrastive_head(part) for part in pooled),
            self.config.contrastive_temperature,
            torch.stack(is_real).all(0) if is_real else None,
        )


class MMWFMForSequenceClassification(MMWFMPreTrainedModel):
    """One linear layer on the pooled features: classes, or coordinates in metres."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^contrastive_head\."]

    def __init__(self, config: MMWFMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mmwfm = MMWFMModel(config)
        width = config.hidden_size * (2 if config.pooling == "mean_std" else 1)
        self.classifier = make_classifier(config, width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if module is self.classifier:  # small, so that the first logits hardly differ
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
            for buffer in module.buffers():  # of a base that knows no training rows
                init.zeros_(buffer)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        iq_values: torch.Tensor | None = None,
        iq_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> MMWFMClassifierOutput:
        r"""
        Args:
            iq_values, iq_attention_mask, pixel_values: as for `MMWFMModel`.
            labels: class indices of shape `(batch_size,)`, or for regression values of shape
                `(batch_size, num_labels)` in metres.

        Returns:
            `loss`, `logits` and `novelty`, see `classify`.
        """
        outputs = self.mmwfm(iq_values, iq_attention_mask, pixel_values, return_dict=True, **kwargs)
        return classify(self.classifier, outputs, labels, self.config)
