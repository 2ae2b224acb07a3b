"""Adapters opened as whole models, by folder or Hub name: `AutoModel...from_pretrained(ADAPTER)`, `pipeline(ADAPTER)`."""

import json
import re
from contextvars import ContextVar
from pathlib import Path

from transformers.utils import find_adapter_config_file

# Patterns of the weights that the adapter now being opened brings: that its base has none of them is no news.
brought_weights: ContextVar[frozenset[str]] = ContextVar("brought_weights", default=frozenset())


class OpensAdapters:
    """Of a `PreTrainedModel`. transformers by itself opens an adapter of the Hub with head and labels of its base, and
    takes a folder with a config.json, as `finetune.py` writes it, for that of a whole model."""

    def post_init(self):
        super().post_init()
        self._keys_to_ignore_on_load_missing |= brought_weights.get()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, adapter_kwargs=None, **kwargs):
        adapter = (adapter_kwargs or {}).get("_adapter_model_path")  # from the Auto classes
        if adapter is None:
            return super().from_pretrained(
                pretrained_model_name_or_path, *args, config=config, adapter_kwargs=adapter_kwargs, **kwargs
            )
        folder, place = Path(adapter), {key: adapter_kwargs.get(key) for key in ("revision", "token")}
        lookup = {key: value for key, value in adapter_kwargs.items() if key != "_adapter_model_path"}
        settings = json.loads(Path(find_adapter_config_file(adapter, **lookup)).read_text())
        if folder.is_dir() and not any(folder.glob("model*.safetensors")):
            pretrained_model_name_or_path = settings["base_model_name_or_path"]
        if config is not None and config.name_or_path != adapter:
            try:
                own = type(config).from_pretrained(adapter, **place, cache_dir=kwargs.get("cache_dir"))
                own._attn_implementation, config = config._attn_implementation, own
            except OSError:
                pass  # of other adapters that peft writes: head and labels are what the caller says
        modules = settings.get("modules_to_save") or ()
        token = brought_weights.set(frozenset(rf"(^|\.){re.escape(module)}\." for module in modules))
        try:
            model = super().from_pretrained(
                pretrained_model_name_or_path, *args, config=config, adapter_kwargs=adapter_kwargs, **kwargs
            )
        except OSError as error:
            raise ValueError(
                f"{adapter}: expected the base of the adapter at {pretrained_model_name_or_path}, found none: {error}"
            ) from error
        finally:
            brought_weights.reset(token)
        opened = model[0] if isinstance(model, tuple) else model  # with `output_loading_info`
        opened.opened_adapter = {"pretrained_model_name_or_path": adapter, **place}
        return model
