"""One encoder's blocks for several tasks at once, and what each task has for itself before and after them."""

from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .modeling_mmwfm import MMWFMForSequenceClassification, run_layers
from .task_head_mmwfm import MMWFMClassifierOutput, classify
from .tokens_mmwfm import pool_tokens


class SharedBlocks(nn.Module):
    """What all tasks run through: blocks and final norm of an encoder, named as in the files of adapters."""

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        self.mmwfm = encoder

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D) and None or (B, N) of 1 = real -> (B, N, D)"""
        return self.mmwfm.norm(run_layers(self.mmwfm.layers, self.mmwfm.config, hidden_states, attention_mask))


class Task(nn.Module):
    """What one task has for itself: input modules, pooling and head.

    Args:
        state: of these modules, by their names in `MMWFMForSequenceClassification`; what is missing is the encoder's.
    """

    def __init__(self, config: PreTrainedConfig, encoder: PreTrainedModel, state: dict[str, torch.Tensor]):
        super().__init__()
        self.config = config
        with torch.device("meta"):
            model = MMWFMForSequenceClassification(config)
        model.mmwfm.layers, model.mmwfm.norm = nn.ModuleList(), nn.Identity()  # the shared ones take their place
        names = set(model.state_dict())
        base = {f"mmwfm.{name}": value for name, value in encoder.state_dict().items() if f"mmwfm.{name}" in names}
        own = {name: value.to(encoder.cls_token) for name, value in state.items()}
        model.load_state_dict({**base, **own}, assign=True)
        self.model = model.eval().requires_grad_(False)

    def embed(self, **inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Inputs of `MMWFMModel` -> CLS and tokens (B, N, D), and None or what is real (B, N)."""
        encoder = self.model.mmwfm
        tokens = encoder.tokenize(**inputs)
        embeddings = {family: encoder.embeddings_of(family)(part) for family, part in tokens.items()}
        return encoder.encode(embeddings, {family: part.is_real for family, part in tokens.items()})

    def predict(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> MMWFMClassifierOutput:
        """Encoder output (B, N, D) -> class scores, or metres (B, num_labels), and novelty."""
        if self.config.pooling == "cls":
            pooled = hidden_states[:, 0]
        else:
            is_real = None if attention_mask is None else attention_mask[:, 1:]
            pooled = pool_tokens(hidden_states[:, 1:], is_real, with_std=self.config.pooling == "mean_std")
        outputs = BaseModelOutputWithPooling(pooler_output=pooled)
        return classify(self.model.classifier, outputs, None, self.config)


@contextmanager
def mixed_lora(encoder: PreTrainedModel, counts: dict[str, int]):
    """While open, consecutive rows of a batch get their adapter's LoRA: adapter's name -> number of rows.

    peft's own mixed batch gathers and scatters rows by lists of indices in every layer, which costs more than the small
    matrices; here every adapter is added to its slice.
    """
    stops = list(accumulate(counts.values()))
    slices = [(name, slice(stop - counts[name], stop)) for name, stop in zip(counts, stops)]

    def mix(layer: LoraLayer, inputs: torch.Tensor) -> torch.Tensor:
        output = layer.base_layer(inputs)
        for name, rows in slices:
            if name in layer.lora_A:  # an adapter may leave a layer out
                low_rank = layer.lora_A[name](inputs[rows].to(layer.lora_A[name].weight.dtype))
                output[rows] += layer.lora_B[name](low_rank) * layer.scaling[name]  # summed in the wider type
        return output

    layers = [layer for layer in encoder.layers.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.forward = partial(mix, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # of the instance: that of its class comes back


def pad_tokens(hidden_states: torch.Tensor, length: int) -> torch.Tensor:
    return nn.functional.pad(hidden_states, (0, 0, 0, length - hidden_states.shape[1]))
