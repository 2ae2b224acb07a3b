"""Adapters opened as whole models, by folder or Hub name: `AutoModel...from_pretrained(ADAPTER)`, `pipeline(ADAPTER)`."""

import json
from pathlib import Path


class OpensAdapters:
    """Of a `PreTrainedModel`. transformers by itself opens an adapter of the Hub with head and labels of its base, and
    takes a folder with a config.json, as `finetune.py` writes it, for that of a whole model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, adapter_kwargs=None, **kwargs):
        adapter = (adapter_kwargs or {}).get("_adapter_model_path")  # from the Auto classes
        if adapter is None:
            return super().from_pretrained(
                pretrained_model_name_or_path, *args, config=config, adapter_kwargs=adapter_kwargs, **kwargs
            )
        folder, place = Path(adapter), {key: adapter_kwargs.get(key) for key in ("revision", "token")}
        if folder.is_dir() and not any(folder.glob("model*.safetensors")):
            settings = json.loads((folder / "adapter_config.json").read_text())
            pretrained_model_name_or_path = settings["base_model_name_or_path"]
        if config is not None and config.name_or_path != adapter:
            try:
                own = type(config).from_pretrained(adapter, **place, cache_dir=kwargs.get("cache_dir"))
                own._attn_implementation, config = config._attn_implementation, own
            except OSError:
                pass  # of other adapters that peft writes: head and labels are what the caller says
        try:
            model = super().from_pretrained(
                pretrained_model_name_or_path, *args, config=config, adapter_kwargs=adapter_kwargs, **kwargs
            )
        except OSError as error:
            raise ValueError(
                f"{adapter}: expected the base of the adapter at {pretrained_model_name_or_path}, found none: {error}"
            ) from error
        opened = model[0] if isinstance(model, tuple) else model  # with `output_loading_info`
        opened.opened_adapter = {"pretrained_model_name_or_path": adapter, **place}
        return model
