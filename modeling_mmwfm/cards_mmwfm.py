"""Model cards of the folders that training writes."""

import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TAGS = {
    "mmwfm": ["wireless", "iq", "csi", "spectrogram", "masked-autoencoder"],
    "iqfm": ["wireless", "iq", "contrastive"],
}
ABOUT = {
    "mmwfm": "Encoder and decoder of the multimodal wireless foundation model (arXiv 2511.15162), pretrained by masked "
    "wireless\nmodeling. Its loss is the mean squared error of masked tokens.",
    "iqfm": "IQFM (arXiv 2506.06718), an encoder of IQ streams, pretrained by telling recordings apart (SimCLR). Its loss "
    "is the\ncross-entropy of finding the second view of a recording in the batch.",
}

PRETRAINED = """---
{data}
---

# {name}

{about}

```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
```

## Training data

{datasets}

## Result

{steps:,} steps. Validation loss: {losses}.

{figures}
"""

ADAPTED = """---
{data}
---

# {name}

{encoder} adapted to {dataset}, regime `{regime}`: {rows_trained:,} training rows, {parameters:,} trained parameters.

```python
{example}
```

| split | metric | value |
|---|---|---|
{rows}

Validation picked the epoch; the test split was used once. `run.json` holds the recipe.

{figures}
"""


OPEN_MODEL = """from transformers import AutoModelForSequenceClassification, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained("{name}", trust_remote_code=True)"""

OPEN_ADAPTER = """from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
config = AutoConfig.from_pretrained("{name}", trust_remote_code=True)  # labels and head
base = AutoModelForSequenceClassification.from_pretrained("{base}", config=config, trust_remote_code=True)
model = PeftModel.from_pretrained(base, "{name}").eval()"""


def model_type(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def write_pretraining_card(folder: Path, log: list[dict], datasets: dict[str, str]) -> Path:
    """
    Args:
        folder: with the saved model.
        log: of `pretrain`.
        datasets: family -> name of its data set.
    """
    losses = {key: value for row in log for key, value in row.items() if key.startswith("validation")}
    kind = model_type(folder)
    content = PRETRAINED.format(
        data=ModelCardData(
            license="apache-2.0", library_name="transformers", tags=TAGS.get(kind, ["wireless"])
        ).to_yaml(),
        about=ABOUT.get(kind, f"A model of type `{kind}`, pretrained on wireless data."),
        name=folder.name,
        datasets="\n".join(f"- {family}: {name}" for family, name in datasets.items()),
        steps=log[-1]["step"],
        losses=", ".join(f"{key.split('_')[1]} {value:.4f}" for key, value in sorted(losses.items()))
        or "not measured",
        figures=show_figures(folder),
    )
    return save(content, folder)


def write_task_card(folder: Path, results: dict, run: dict) -> Path:
    """Card with a model-index of the test results, if there are any.

    Args:
        folder: with the saved model, or adapter and configuration.
        results: of `finetune`.
        run: what `run.json` holds.
    """
    dataset = Path(run.get("dataset", "data set")).name
    fresh = run.get("random_encoder") or run["regime"] == "scratch"
    adapter = run["regime"] in ("lora", "probe") and not run.get("random_encoder")  # whose adapter is merged
    numbers = [
        (split, key, value)
        for split in ("validation", "test")
        for key, value in results.get(split, {}).items()
        if isinstance(value, float)
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="peft" if adapter else "transformers",
        base_model=run["base"],
        tags=TAGS[model_type(folder)],
        model_name=folder.name,
        eval_results=[
            EvalResult(
                task_type="signal-classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type=key,
                metric_value=value,
            )
            for split, key, value in numbers
            if split == "test"
        ]
        or None,
    )
    content = ADAPTED.format(
        data=data.to_yaml(),
        name=folder.name,
        encoder=f"Fresh weights of the configuration of {run['base']}" if fresh else run["base"],
        example=(OPEN_ADAPTER if adapter else OPEN_MODEL).format(name=folder.name, base=run["base"]),
        dataset=dataset,
        regime=run["regime"],
        rows_trained=results["trained_rows"],
        parameters=results["trained_parameters"],
        rows="\n".join(f"| {split} | {key.replace('_', ' ')} | {value:.4f} |" for split, key, value in numbers),
        figures=show_figures(folder),
    )
    return save(content, folder)


def show_figures(folder: Path) -> str:
    return "\n".join(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in sorted(folder.glob("*.png")))


def save(content: str, folder: Path) -> Path:
    ModelCard(content).save(folder / "README.md")
    return folder / "README.md"
