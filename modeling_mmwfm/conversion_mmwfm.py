"""The paper authors' released `.pth` checkpoints -> this package's models and PEFT adapters."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from .configuration_mmwfm import MMWFMConfig
from .modeling_mmwfm import MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel

# (width, depth) -> attention heads, which the files do not hold.
ENCODER_HEADS = {(128, 4): 4, (256, 8): 8, (512, 12): 8, (768, 12): 12}
DECODER_HEADS = {(128, 2): 4, (128, 4): 16, (256, 6): 8, (512, 8): 16}

BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.o_proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
TOP = {
    "cls_token": "mmwfm.cls_token",
    "norm.weight": "mmwfm.norm.weight",
    "norm.bias": "mmwfm.norm.bias",
    "iq_segment_embed.weight": "mmwfm.iq_embeddings.projection.weight",
    "iq_segment_embed.bias": "mmwfm.iq_embeddings.projection.bias",
    "iq_ant_embed.weight": "mmwfm.iq_embeddings.positions.antenna_embeddings.weight",
    "vis_patch_embed.proj.weight": "mmwfm.image_embeddings.projection.weight",
    "vis_patch_embed.proj.bias": "mmwfm.image_embeddings.projection.bias",
    "channel_adapter.weight": "mmwfm.image_embeddings.channel_adapter.weight",
    "mod_ln_scale.iq": "mmwfm.iq_embeddings.affine.weight",
    "mod_ln_bias.iq": "mmwfm.iq_embeddings.affine.bias",
    "mod_ln_scale.vision": "mmwfm.image_embeddings.affine.weight",
    "mod_ln_bias.vision": "mmwfm.image_embeddings.affine.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
    "mask_token": "decoder.mask_token",
    "decoder_embed.weight": "decoder.projection.weight",
    "decoder_embed.bias": "decoder.projection.bias",
    "decoder_norm.weight": "decoder.norm.weight",
    "decoder_norm.bias": "decoder.norm.bias",
    "iq_dec_ant_embed.weight": "decoder.positions.iq.antenna_embeddings.weight",
    "iq_decoder_pred.weight": "decoder.heads.iq.weight",
    "iq_decoder_pred.bias": "decoder.heads.iq.bias",
    "vis_decoder_pred.weight": "decoder.heads.image.weight",
    "vis_decoder_pred.bias": "decoder.heads.image.bias",
}
# Fixed sin-cos tables, which this package computes.
TABLES = {"vis_pos_embed", "vis_dec_pos_embed", "iq_time_pos_embed", "iq_dec_time_pos_embed"}


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict of a `.pth` file, read without executing anything in it."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a checkpoint file, found nothing at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and end-of-file errors alike
        raise ValueError(f"expected a torch checkpoint of tensors, {path} cannot be read as one: {error}") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(
            f'expected {{"model": state dict}} in {path}, found {type(content).__name__} of other content'
        )
    return state


def convert_state_dict(state: dict[str, torch.Tensor]) -> tuple[dict, dict, list[str]]:
    """Their names -> (our weights, LoRA weights by our module name, names of parts that have no place here).

    Raises:
        ValueError: names that no checkpoint of theirs has; they are listed.
    """
    families = {
        name
        for name, key in (("iq", "iq_segment_embed.weight"), ("vision", "vis_patch_embed.proj.weight"))
        if key in state
    }
    ours, lora, unknown, left_out = {}, {}, [], []
    for key, value in state.items():
        block = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", key)
        if key in TABLES:
            continue
        if key.startswith("mod_ln_") and key.rsplit(".", 1)[1] not in families and key in TOP:
            left_out.append(key)  # the affine of a family whose projection the file does not hold
        elif key in TOP:
            ours[TOP[key]] = convert_value(key, value)
        elif block is None:
            unknown.append(key)
        else:
            decoder, number, rest = block.groups()
            prefix = f"{'decoder' if decoder else 'mmwfm'}.layers.{number}."
            module, _, kind = rest.rpartition(".")
            adapter = re.fullmatch(r"attn\.qkv\.lora_([qv])\.([AB])", rest)
            if module in BLOCK:
                ours[f"{prefix}{BLOCK[module]}.{kind}"] = value
            elif module in ("attn.qkv", "attn.qkv.qkv"):
                for name, part in zip("qkv", value.chunk(3)):
                    ours[f"{prefix}attention.{name}_proj.{kind}"] = part.clone()
            elif adapter:
                name, matrix = adapter.groups()
                lora[f"{prefix}attention.{name}_proj.lora_{matrix}.weight"] = value.T.contiguous()
            else:
                unknown.append(key)
    if unknown:
        raise ValueError(f"expected the authors' key names, found also: {', '.join(sorted(unknown))}")
    return ours, lora, left_out


def convert_value(key: str, value: torch.Tensor) -> torch.Tensor:
    if key == "iq_segment_embed.weight":  # Conv1d (D, 2, M) -> (D, 2 M)
        return value.flatten(1)
    if key == "vis_patch_embed.proj.weight":  # Conv2d (D, C, P, P) -> (D, P P C): values by row, column, channel
        return value.permute(0, 2, 3, 1).flatten(1)
    return value


def infer_config(state: dict, heads: int | None, decoder_heads: int | None, **overrides) -> MMWFMConfig:
    """Sizes from the shapes of the weights.

    Raises:
        ValueError: a part that no size can be read from is missing, or the number of heads is not known.
    """
    needed = ["cls_token", "norm.weight", "blocks.0.mlp.fc1.weight"]
    needed += ["iq_ant_embed.weight"] if "iq_segment_embed.weight" in state else []
    needed += ["decoder_blocks.0.mlp.fc1.weight"] if "mask_token" in state else []
    if missing := [key for key in needed if key not in state]:
        raise ValueError(f"expected the authors' keys, missing: {', '.join(missing)}")
    families = {"iq": "iq_segment_embed.weight", "image": "vis_patch_embed.proj.weight"}
    settings = {"modalities": [family for family, key in families.items() if key in state]}
    if not settings["modalities"]:
        raise ValueError(f"expected an input projection, missing both {' and '.join(families.values())}")
    for prefix, width_key, known, given in (
        ("", "cls_token", ENCODER_HEADS, heads),
        ("decoder_", "mask_token", DECODER_HEADS, decoder_heads),
    ):
        if width_key not in state:
            continue
        width = state[width_key].shape[-1]
        depth = len({key.split(".")[1] for key in state if key.startswith(f"{prefix}blocks.")})
        if given is None and (width, depth) not in known:
            raise ValueError(
                f"the number of heads of width {width}, depth {depth} is not known; "
                f"expected --{prefix}num_attention_heads"
            )
        settings |= {
            f"{prefix}hidden_size": width,
            f"{prefix}num_hidden_layers": depth,
            f"{prefix}num_attention_heads": given or known[width, depth],
            f"{prefix}intermediate_size": state[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0],
        }
    if "iq" in settings["modalities"]:
        settings["segment_length"] = state["iq_segment_embed.weight"].shape[-1]
        settings["max_antennas"] = state["iq_ant_embed.weight"].shape[0]
    if "image" in settings["modalities"]:
        _, settings["num_channels"], settings["patch_size"], _ = state["vis_patch_embed.proj.weight"].shape
    if "channel_adapter.weight" in state:
        settings["input_channels"] = state["channel_adapter.weight"].shape[1]
    if "head.weight" in state:
        settings["num_labels"] = state["head.weight"].shape[0]
    settings["affine_position"] = "tokens" if any(key.startswith("mod_ln_") for key in state) else "none"
    # Fine-tuning class: 1e-6 in all norms; pretraining class: 1e-5 in the norms that end encoder and decoder.
    settings["final_layer_norm_eps"] = 1e-5 if "mask_token" in state else 1e-6
    return MMWFMConfig(**settings, **overrides)


def convert_checkpoint(
    checkpoint: str | Path,
    head: bool = False,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    **overrides,
) -> tuple[torch.nn.Module, dict[str, torch.Tensor], list[str]]:
    """Convert one file.

    Args:
        checkpoint: the `.pth` file; pretraining, fine-tuned or fine-tuned with LoRA.
        head: keep the head of a fine-tuned checkpoint; otherwise the encoder alone is converted.
        num_attention_heads, decoder_num_attention_heads: needed for sizes other than the authors'.
        overrides: configuration fields (`pooling`, `problem_type`, `label_min`, `label_max`).

    Returns:
        the model, its LoRA weights by module name (empty without LoRA), and the names left out on purpose.

    Raises:
        ValueError: unreadable file, unknown or missing names, unknown number of heads.
    """
    state = read_checkpoint(checkpoint)
    ours, lora, left_out = convert_state_dict(state)
    config = infer_config(state, num_attention_heads, decoder_num_attention_heads, **overrides)
    if "mask_token" in state:
        model = MMWFMForPreTraining(config)
    elif head:
        model = MMWFMForSequenceClassification(config)
    else:
        model = MMWFMModel(config)
        left_out += [key for key in state if key.startswith("head.")]
        ours = {key.removeprefix("mmwfm."): value for key, value in ours.items() if key.startswith("mmwfm.")}
        lora = {key.removeprefix("mmwfm."): value for key, value in lora.items()}
    expected, found = model.state_dict(), ours
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"missing in {checkpoint}: what becomes {', '.join(missing)}")
    if extra := sorted(found.keys() - expected.keys()):
        raise ValueError(f"expected no more than a {type(model).__name__} holds, found also: {', '.join(extra)}")
    if wrong := [key for key in expected if expected[key].shape != found[key].shape]:
        shapes = "; ".join(f"{key} {tuple(expected[key].shape)}, found {tuple(found[key].shape)}" for key in wrong)
        raise ValueError(f"shapes differ: expected {shapes}")
    model.load_state_dict(ours)
    return model.eval(), lora, left_out


def save_adapter(lora: dict[str, torch.Tensor], lora_alpha: float, base_model_name: str, output_dir: str | Path):
    """Write LoRA weights as a PEFT adapter (rank-stabilised: update = alpha / sqrt(rank) * B A x)."""
    from peft import LoraConfig

    rank = next(value.shape[0] for key, value in lora.items() if key.endswith("lora_A.weight"))
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=rank,
        lora_alpha=lora_alpha,
        use_rslora=True,
        target_modules=["q_proj", "v_proj"],
        base_model_name_or_path=base_model_name,
        inference_mode=True,
    ).save_pretrained(output_dir)
    weights = {f"base_model.model.{key}": value for key, value in lora.items()}
    save_file(weights, output_dir / "adapter_model.safetensors", metadata={"format": "pt"})
