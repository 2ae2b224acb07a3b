"""One step of adapting a classifier, ours and plain peft on transformers' ViT; and epochs on features kept in memory."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn

from modeling_mmwfm import MMWFMImageProcessor, MMWFMModel, MMWFMProcessor
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune
from modeling_mmwfm.regimes_mmwfm import apply_regime
from processing.schema import image_features

from .models import DTYPES, NUM_LABELS, images, our_classifier, our_mae, peer_classifier, precision_of, with_compiled
from .pretraining import training_step
from .scale import Scale
from .timing import Call, take_turns

CACHED_REGIME = "head"  # trains nothing before the head
PEER_INPUTS, PEER_HEAD = "vit.embeddings.patch_embeddings.projection", "classifier"


def adapted_peer(model: nn.Module, regime: str) -> nn.Module:
    """Trains what ours does in the regime "lora" or "lp": patch projection, head and, with LoRA, adapters of Q and V."""
    if regime == "lora":
        trained = [PEER_INPUTS, PEER_HEAD]
        lora = LoraConfig(
            r=32, lora_alpha=64, use_rslora=True, target_modules=["q_proj", "v_proj"], modules_to_save=trained
        )
        return get_peft_model(model, lora)
    model.requires_grad_(False)
    for name in (PEER_INPUTS, PEER_HEAD):
        model.get_submodule(name).requires_grad_(True)
    return model


def measure_steps(scale: Scale, regime: str, device: str = "cpu") -> dict[str, dict]:
    """In the recipes' precision, eager and compiled."""
    batch_size = scale.batch_size if device == "cpu" else scale.gpu_batch_size
    batch = images(batch_size, scale, device)
    batch["labels"] = torch.randint(0, NUM_LABELS, (batch_size,), device=device)
    ours = apply_regime(our_classifier(scale.preset).to(device), regime, ["image"])
    peer = adapted_peer(peer_classifier(scale.preset, scale.image_size).to(device), regime)
    models = with_compiled({"ours": ours, "ViT": peer}, scale)
    dtype = DTYPES[precision_of(device)]
    calls = {name: Call(training_step(model, batch, dtype, device), batch_size) for name, model in models.items()}
    with disable_input_dtype_casting(ours):  # as `finetune` does
        return take_turns(calls, scale)


def labelled_images(count: int, image_size: int, split: str) -> Dataset:
    generator = np.random.default_rng(len(split))
    columns = {
        "image": generator.standard_normal((count, 1, image_size, image_size), dtype=np.float32),
        "label": [row % NUM_LABELS for row in range(count)],
    }
    known = image_features(1, image_size, image_size, [str(label) for label in range(NUM_LABELS)])
    features = type(known)({name: known[name] for name in columns})
    return Dataset.from_dict(columns, features=features).with_format("numpy")


class EncodedRows:
    """Counts the rows that go through an encoder while it is entered."""

    def __enter__(self):
        self.count = 0
        self.hook = nn.modules.module.register_module_forward_hook(self.note)
        return self

    def note(self, module, arguments, output):
        if isinstance(module, MMWFMModel):
            self.count += len(output[0])

    def __exit__(self, *error):
        self.hook.remove()


def measure_cached(scale: Scale, regime: str = CACHED_REGIME) -> dict[str, dict]:
    """An epoch after the first, by `finetune` itself: by how much a run of more epochs takes longer than a run of one."""
    more = scale.later_epochs
    splits = {split: labelled_images(scale.head_rows, scale.image_size, split) for split in ("train", "validation")}
    processor = MMWFMProcessor(image_processor=MMWFMImageProcessor(keep_size=True))
    seconds, encoded = [], []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        our_mae(scale.preset).save_pretrained(base)

        def run(name, epochs):
            arguments = FinetuningArguments(
                output_dir=f"{folder}/{name}-{epochs}",
                regime=regime,
                num_train_epochs=epochs,
                warmup_epochs=0,
                batch_size=scale.batch_size,
                results_only=True,
            )
            with EncodedRows() as rows:
                start = time.perf_counter()
                finetune(str(base), processor, splits, arguments)
            return time.perf_counter() - start, rows.count

        run("first", 1)  # what is slow once
        for number in range(max(1, scale.repeats // 2)):
            (first, first_rows), (longer, longer_rows) = run(number, 1), run(number, 1 + more)
            seconds.append((longer - first) / more)
            encoded.append((longer_rows - first_rows) / more)
    series = {"seconds": seconds, "items": scale.head_rows, "unit": "samples", "flop": None}
    return {"ours, later epoch": {**series, "encoded_rows": max(encoded)}}
