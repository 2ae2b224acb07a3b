"""Several task adapters on one resident encoder: each alone, or all in one batch.

    adapters = MMWFMAdapters.from_pretrained("runs/small")
    adapters.load("runs/rfp-lora", "rfp")
    adapters.load("runs/pos-lora", "pos")
    adapters(adapter_names="rfp", **batch).logits
    adapters.forward_tasks({"rfp": {"iq_values": iq}, "pos": {"pixel_values": csi}})  # blocks run once

peft alone cannot mix the adapters that `finetune.py` writes: their heads differ in size, their inputs in family and
shape. So peft holds what lies in the shared blocks, the LoRA matrices, and switches, mixes, deletes and merges them; a
task's own input modules and head lie beside it.
"""

import copy
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, StrictDataclassError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .modeling_mmwfm import MMWFMForSequenceClassification
from .regimes_mmwfm import PARTS
from .shared_blocks_mmwfm import SharedBlocks, Task, mixed_lora, pad_tokens
from .task_head_mmwfm import MMWFMClassifierOutput

logger = logging.get_logger(__name__)

FILES = ("adapter_config.json", "adapter_model.safetensors", "config.json")
PREFIX = "base_model.model."  # of every name in an adapter's file
# In which an adapter and its base must agree, beside what the regimes ask for.
AGREED = ("model_type", *PARTS["mmwfm"].sizes, "intermediate_size", "num_channels", "affine_position", "iq_input")


class MMWFMAdapters(nn.Module):
    """Task adapters, as `finetune.py` writes them, on one encoder; for inference.

    Args:
        model: an encoder, or a model around one; it is used in place, and frozen.

    Raises:
        ValueError: another kind of model.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        if model.config.model_type != "mmwfm":
            raise ValueError(
                f"expected a model of type mmwfm, whose blocks adapters can share, found {model.config.model_type}: "
                "`pipeline` and `load_adapted` open adapters of other models one by one"
            )
        self.blocks: SharedBlocks | PeftModel = SharedBlocks(model.base_model.eval().requires_grad_(False))
        self.tasks = nn.ModuleDict()
        self.active: str | None = None

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs) -> "MMWFMAdapters":
        """On the encoder of a checkpoint: folder or Hub name, `kwargs` as of `AutoModel.from_pretrained`."""
        return cls(AutoModel.from_pretrained(name, **kwargs))

    @property
    def encoder(self) -> PreTrainedModel:
        blocks = self.blocks.get_base_model() if isinstance(self.blocks, PeftModel) else self.blocks
        return blocks.mmwfm

    @property
    def names(self) -> list[str]:
        """Of the loaded adapters; `tasks[name].config` holds labels and problem type of one."""
        return list(self.tasks)

    def load(self, folder: str | Path, name: str | None = None, **kwargs) -> str:
        """Add an adapter; the first one becomes active.

        Args:
            folder: folder or Hub name.
            name: what it is called here; default: the last part of `folder`.
            kwargs: of `snapshot_download`: `revision`, `token`, `cache_dir` ...

        Returns:
            its name.

        Raises:
            ValueError: no adapter there, or none that fits the encoder; the other adapters stay as they are.
        """
        name = name if name is not None else Path(folder).name
        # A module's name has no dot and is no attribute of its list; peft looks for the letters of "lora_" in names.
        if not name or "." in name or name == "__base__" or name in "lora_" or hasattr(self.tasks, name):
            raise ValueError(f"`name`: expected a new name, no dot in it, other than 'keys' or 'lora', found {name!r}")
        path = fetch(folder, **kwargs)
        config, settings = self.read_configs(path, folder)
        try:
            state = load_file(path / "adapter_model.safetensors")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path / 'adapter_model.safetensors'}: expected safetensors, found {error}") from error
        lora = {key: value for key, value in state.items() if "lora_" in key}
        own = {key.removeprefix(PREFIX): value for key, value in state.items() if key not in lora}
        try:
            task = Task(config, self.encoder, own)
        except RuntimeError as error:  # names the missing, unknown and mismatched
            raise ValueError(f"{folder}: expected the input modules and head of its configuration, {error}") from error
        self.add_lora(name, settings, lora, folder)
        self.tasks[name] = task
        if self.active is None:
            self.use(name)
        return name

    def read_configs(self, path: Path, folder) -> tuple[PreTrainedConfig, LoraConfig]:
        """Configuration of the task's model, and of its LoRA matrices alone."""
        try:
            config, settings = AutoConfig.from_pretrained(path), PeftConfig.from_pretrained(str(path))
        except (ValueError, OSError, KeyError, TypeError, StrictDataclassError) as error:
            raise ValueError(f"{folder}: expected the configuration of an adapter, found {error}") from error
        base = self.encoder.config
        for key in AGREED:
            if getattr(config, key, None) != getattr(base, key):
                raise ValueError(
                    f"{folder}: expected an adapter of a base with `{key}` {getattr(base, key)}, found "
                    f"{getattr(config, key, None)}"
                )
        if not isinstance(settings, LoraConfig):
            raise ValueError(f"{folder}: expected a LoRA adapter, found {settings.peft_type}")
        # Names of one folder, absolute and relative, are the same base; a name on the Hub stays what it is.
        if len({Path(name).resolve() for name in (settings.base_model_name_or_path or "", base.name_or_path)}) > 1:
            logger.warning(
                f"{folder} was trained on {settings.base_model_name_or_path} and is loaded on {base.name_or_path}: if "
                "these are not the same weights, what it predicts means nothing"
            )
        settings.modules_to_save, settings.task_type, settings.inference_mode = None, None, True
        return config, settings

    def add_lora(self, name: str, settings: LoraConfig, state: dict[str, torch.Tensor], folder):
        """Into the shared blocks, or not at all."""
        with ExitStack() as undo:
            undo.callback(self.remove_lora, name)
            if isinstance(self.blocks, PeftModel):
                self.blocks.add_adapter(name, settings)
            else:
                self.blocks = PeftModel(self.blocks, settings, adapter_name=name)
            expected = {
                key: value.shape for key, value in get_peft_model_state_dict(self.blocks, adapter_name=name).items()
            }
            if any(name in layer.lora_variant for layer in self.blocks.modules() if isinstance(layer, LoraLayer)):
                raise ValueError(f"{folder}: expected plain LoRA, found a variant of it, as DoRA")
            found = {key: value.shape for key, value in state.items()}
            if wrong := sorted(key for key in expected | found if expected.get(key) != found.get(key)):
                raise ValueError(
                    f"{folder}: expected LoRA weights of the base's sizes, found {wrong[0]} of size "
                    f"{found.get(wrong[0])} instead of {expected.get(wrong[0])}"
                )
            set_peft_model_state_dict(self.blocks, state, adapter_name=name)
            undo.pop_all()
        self.blocks.eval()

    def remove_lora(self, name: str):
        if not isinstance(self.blocks, PeftModel):
            return
        if set(self.blocks.peft_config) <= {name}:
            self.blocks = SharedBlocks(self.blocks.unload().mmwfm)  # plain linear layers again
        elif name in self.blocks.peft_config:
            self.blocks.set_adapter(next(n for n in self.blocks.peft_config if n != name), inference_mode=True)
            self.blocks.delete_adapter(name)

    def check(self, *names: str):
        if unknown := sorted({str(name) for name in names if name not in self.tasks}):
            raise ValueError(f"expected names of loaded adapters, {self.names}, found {', '.join(unknown)}")

    def use(self, name: str):
        """Make an adapter the one that a call without names takes.

        Raises:
            ValueError: none of that name.
        """
        self.check(name)
        self.blocks.set_adapter(name, inference_mode=True)
        self.active = name

    def unload(self, name: str):
        """Forget an adapter; after the active one none is active.

        Raises:
            ValueError: none of that name.
        """
        self.check(name)
        self.remove_lora(name)
        del self.tasks[name]
        if self.active == name:
            self.active = None
        elif self.active is not None:
            self.use(self.active)

    def merge(self, name: str) -> MMWFMForSequenceClassification:
        """One adapter and the encoder as a model of its own, without peft; what is loaded here stays.

        Raises:
            ValueError: none of that name.
        """
        self.check(name)
        blocks = copy.deepcopy(self.blocks)
        blocks.set_adapter(name, inference_mode=True)
        encoder = blocks.merge_and_unload(adapter_names=[name]).mmwfm
        task = self.tasks[name]
        model = MMWFMForSequenceClassification(copy.deepcopy(task.config)).to(encoder.cls_token)
        shared = {f"mmwfm.{key}": value for key, value in encoder.state_dict().items()}
        own = task.model.state_dict()
        model.load_state_dict({key: own[key] if key in own else shared[key] for key in model.state_dict()})
        return model.eval()

    def forward(self, adapter_names: str | list[str] | None = None, **inputs) -> MMWFMClassifierOutput:
        """One batch of equal shapes for one adapter, or with an adapter for every row.

        Args:
            adapter_names: one name, one per row, or None: the active adapter.
            inputs: as of `MMWFMModel`.

        Returns:
            `logits` (B, num_labels); of several adapters as wide as the largest head: behind a smaller head follow
            -inf (class scores) or NaN (metres). `novelty` (B,), NaN of adapters that do not tell it; None if none does.

        Raises:
            ValueError: unknown names, or not one per row.
        """
        if adapter_names is None and self.active is None:
            raise ValueError(
                f"expected an active adapter (`use`) or `adapter_names`, found none; loaded: {self.names}"
            )
        if adapter_names is None or isinstance(adapter_names, str):
            name = adapter_names or self.active
            return self.run_tasks({name: inputs})[name]
        self.check(*adapter_names)
        batch_size = len(next(iter(inputs.values())))
        if len(adapter_names) != batch_size:
            raise ValueError(
                f"`adapter_names`: expected one for each of {batch_size} rows, found {len(adapter_names)}"
            )
        rows = {
            name: torch.tensor([row for row, other in enumerate(adapter_names) if other == name])
            for name in dict.fromkeys(adapter_names)
        }
        found = self.run_tasks(
            {name: {key: value[index] for key, value in inputs.items()} for name, index in rows.items()}
        )
        width = max(part.logits.shape[1] for part in found.values())
        logits = next(iter(found.values())).logits.new_empty(batch_size, width)
        novelty = logits.new_full((batch_size,), float("nan"), dtype=torch.float32)
        for name, part in found.items():
            fill = float("nan") if self.tasks[name].config.problem_type == "regression" else float("-inf")
            logits[rows[name]] = nn.functional.pad(part.logits, (0, width - part.logits.shape[1]), value=fill)
            if part.novelty is not None:
                novelty[rows[name]] = part.novelty
        return MMWFMClassifierOutput(logits=logits, novelty=None if novelty.isnan().all() else novelty)

    def forward_tasks(self, batches: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """A batch of every task, of any shapes and input families, through the shared blocks at once.

        Args:
            batches: adapter's name -> inputs of `MMWFMModel`. Tasks of fewer tokens are padded to those of the most.

        Returns:
            adapter's name -> logits (B, num_labels): class scores, or metres.

        Raises:
            ValueError: no batch, unknown names, or inputs that the model refuses.
        """
        return {name: output.logits for name, output in self.run_tasks(batches).items()}

    def run_tasks(self, batches: dict[str, dict[str, torch.Tensor]]) -> dict[str, MMWFMClassifierOutput]:
        """`forward_tasks` with all that the heads give."""
        self.check(*batches)
        if not batches:
            raise ValueError("expected a batch of at least one adapter, found none")
        parts = {name: self.tasks[name].embed(**inputs) for name, inputs in batches.items()}
        longest = max(hidden.shape[1] for hidden, _ in parts.values())
        hidden_states = torch.cat([pad_tokens(hidden, longest) for hidden, _ in parts.values()])
        attention_mask = None
        if any(mask is not None or hidden.shape[1] < longest for hidden, mask in parts.values()):
            masks = [hidden.new_ones(hidden.shape[:2], dtype=bool) if m is None else m for hidden, m in parts.values()]
            attention_mask = torch.cat([nn.functional.pad(mask, (0, longest - mask.shape[1])) for mask in masks])
        counts = {name: len(hidden) for name, (hidden, _) in parts.items()}
        alone = set(batches) == {self.active}
        with nullcontext() if alone else mixed_lora(self.encoder, counts):
            encoded = self.blocks(hidden_states, attention_mask).split(list(counts.values()))
        return {
            name: self.tasks[name].predict(output[:, : hidden.shape[1]], mask)
            for output, (name, (hidden, mask)) in zip(encoded, parts.items())
        }


def fetch(folder: str | Path, **kwargs) -> Path:
    """The local folder of an adapter.

    Raises:
        ValueError: no such folder or Hub name, or a file is missing.
    """
    path = Path(folder)
    if not path.is_dir():
        try:
            path = Path(snapshot_download(str(folder), allow_patterns=[*FILES, "*.py"], **kwargs))
        except (HTTPError, OSError, ValueError) as error:
            raise ValueError(
                f"expected the folder or Hub name of an adapter, found none at {folder}: {error}"
            ) from error
    if missing := [name for name in FILES if not (path / name).is_file()]:
        raise ValueError(f"{folder}: expected an adapter as `finetune.py` writes it, found no {', '.join(missing)}")
    return path
