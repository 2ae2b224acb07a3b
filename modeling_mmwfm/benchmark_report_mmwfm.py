"""Tables and figures of a benchmark in one HTML page."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment
from sklearn.metrics import confusion_matrix
from transformers import AutoModel

from .benchmark_figures_mmwfm import embed_rows, plot_embeddings, plot_error_distributions, plot_label_efficiency
from .benchmark_mmwfm import BenchmarkArguments, column_of, read_budgets
from .cells_mmwfm import HAND_FEATURES, PREDICTIONS_FILE, RANDOM_ENCODER, Cell, Task, cell_folder
from .data_collator_mmwfm import MMWFMDataCollator, load_splits
from .figures_mmwfm import plot_confusion
from .processing_mmwfm import MMWFMProcessor
from .report_mmwfm import STYLE, embed

PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>{{ style }}
td.best { font-weight: 600 } tr.published td { color: #777; font-style: italic } .note { color: #555 }
.wide { overflow-x: auto } .wide td { white-space: nowrap }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ introduction }}</p>
{% for table in tables %}<h2>{{ table.title }}</h2>
<div class="wide"><table><tr><th>model</th><th>regime</th>{% for column in table.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr{% if row.published %} class="published"{% endif %}><td>{{ row.model }}</td><td>{{ row.regime }}</td>
{% for cell in row.cells %}<td{% if cell.best %} class="best"{% endif %}>{{ cell.text }}</td>{% endfor %}</tr>
{% endfor %}</table></div><p class="note">{{ table.note }}</p>
{% endfor %}
{% for section in sections %}<h2>{{ section.title }}</h2><p class="note">{{ section.note }}</p>
<div class="row">{% for name, image in section.images %}<figure><img alt="{{ name }}" src="data:image/png;base64,{{ image }}">
<figcaption>{{ name }}</figcaption></figure>{% endfor %}</div>
{% endfor %}
</body></html>
""")

REGIME_NAMES = {
    "probe": "fitted head",
    "lp": "LP",
    "ft2": "FT2",
    "lora": "LoRA",
    "scratch": "from scratch",
    "strict": "strict probe",
}
OWN_NOTE = (
    "Mean ± standard deviation over seeds, test split; accuracy in percent (mean over classes), positions: mean error in "
    "metres, less is better. Bold: best of its column. "
)
PUBLISHED_NOTE = (
    "Rows in italics are published numbers ({source}) of the original data sets with a random split of windows. Ours are of "
    "simulated twins with grouped splits: the two stand beside each other for orientation and cannot be compared."
)


def number(mean: float, std: float, unit: str) -> str:
    digits = 2 if unit == "m" else 1
    return f"{mean:.{digits}f}" + ("" if np.isnan(std) else f" ± {std:.{digits}f}")


def make_table(title: str, summary: pd.DataFrame, entrants: list[tuple[str, str]], published: dict | None) -> dict:
    """Rows (model, regime) over the columns of `summary`, which holds one label budget, with the published rows.

    Args:
        entrants: rows in order; those without any number are left out.
        published: content of `configuration/published_results.yaml`, or None.
    """
    columns = list(dict.fromkeys(summary["column"]))
    units = dict(zip(summary["column"], summary["unit"]))
    chosen = summary[[pair in entrants for pair in zip(summary["model"], summary["regime"])]]
    best = {
        column: group["mean"].min() if units[column] == "m" else group["mean"].max()
        for column, group in chosen.groupby("column")
    }
    rows = []
    for model, regime in entrants:
        found = chosen[(chosen["model"] == model) & (chosen["regime"] == regime)].set_index("column")
        if found.empty:
            continue
        cells = []
        for column in columns:
            if column not in found.index:
                cells.append({"text": "–", "best": False})
                continue
            mean, std = found.loc[column, "mean"], found.loc[column, "std"]
            cells.append({"text": number(mean, std, units[column]), "best": mean == best[column]})
        rows.append({"model": model, "regime": REGIME_NAMES.get(regime, regime), "cells": cells, "published": False})
    note = OWN_NOTE
    regimes = {regime for _, regime in entrants}
    for row in published["rows"] if published else []:
        if row["regime"] in regimes:
            values = dict(zip(published["columns"], row["values"]))
            # The paper has one positioning column.
            shown = [values.get(column, values["POS"] if column.startswith("POS") else None) for column in columns]
            cells = [{"text": "–" if value is None else f"{value:.2f}", "best": False} for value in shown]
            name = f"{row['model']}, published"
            rows.append({"model": name, "regime": REGIME_NAMES[row["regime"]], "cells": cells, "published": True})
    if published:
        note += PUBLISHED_NOTE.format(source=published["source"])
    return {"title": title, "columns": columns, "rows": rows, "note": note}


def control_table(summary: pd.DataFrame, first: str, regimes: list[str]) -> dict:
    """The first model minus the random encoder, regime by regime: what pretraining itself brings."""
    columns = list(dict.fromkeys(summary["column"]))
    rows = []
    for regime in regimes:
        cells = []
        for column in columns:
            of = summary[(summary["column"] == column) & (summary["regime"] == regime)].set_index("model")
            if not {first, RANDOM_ENCODER} <= set(of.index):
                cells.append({"text": "–", "best": False})
                continue
            ours, control = of.loc[first], of.loc[RANDOM_ENCODER]
            gain = control["mean"] - ours["mean"] if ours["unit"] == "m" else ours["mean"] - control["mean"]
            spread = float(np.hypot(ours["std"], control["std"]))
            verdict = "" if np.isnan(spread) else " (within the spread)" if abs(gain) <= spread else ""
            text = f"{gain:+.{2 if ours['unit'] == 'm' else 1}f}{verdict}"
            cells.append({"text": text, "best": not verdict and gain > 0})
        rows.append({"model": first, "regime": REGIME_NAMES.get(regime, regime), "cells": cells, "published": False})
    return {
        "title": "What pretraining brings: against the same encoder with random weights",
        "columns": columns,
        "rows": rows,
        "note": "Percentage points, or metres less; the spread is that of the difference over seeds. Bold: better by more "
        "than the spread. A negative number means that the random weights did better.",
    }


def at_budget(summary: pd.DataFrame, samples_per_class: int | None) -> pd.DataFrame:
    """The rows of one label budget; None: of all labels."""
    budgets = summary["samples_per_class"]
    return summary[budgets.isna() if samples_per_class is None else budgets == samples_per_class]


def paper_tables(summary: pd.DataFrame, models: list[str], regimes: list[str], published: dict | None) -> list[dict]:
    """Table II (linear probe and partial fine-tuning), Table III (LoRA) and the controls, of one group of tasks and one
    label budget."""
    names = [*models, RANDOM_ENCODER]
    low_rank = [regime for regime in regimes if regime == "lora"]
    probes = [regime for regime in regimes if regime != "lora"]
    tables = []
    if probes:
        entrants = [(model, regime) for regime in probes for model in names] + [(HAND_FEATURES, "linear")]
        tables.append(make_table("Table II: linear probe and partial fine-tuning", summary, entrants, published))
    if low_rank:
        entrants = [(model, "lora") for model in names] + [(models[0], "scratch"), (HAND_FEATURES, "linear")]
        tables.append(make_table("Table III: LoRA", summary, entrants, published))
    return [*tables, control_table(summary, models[0], regimes)]


def write_page(title: str, introduction: str, tables: list[dict], sections: list[dict], output: Path) -> Path:
    """
    Args:
        sections: title, note and images (caption, PNG file).
    """
    for section in sections:
        section["images"] = [(caption, embed(path)) for caption, path in section["images"]]
    unfinished = output.with_name(f".{output.name}")
    unfinished.write_text(
        PAGE.render(title=title, introduction=introduction, tables=tables, sections=sections, style=STYLE)
    )
    return unfinished.replace(output)


def pooled_predictions(cells: list[Cell], output_dir: Path, model: str, task: str, regime: str):
    """Logits and labels of the test split, the seeds one after the other; None if there are none."""
    wanted = [cell for cell in cells if (cell.model, cell.task, cell.regime) == (model, task, regime)]
    files = [np.load(cell_folder(output_dir, cell) / PREDICTIONS_FILE) for cell in wanted]
    if not files:
        return None
    return tuple(np.concatenate([file[key] for file in files]) for key in ("logits", "labels"))


def confusion_figures(cells, tasks: dict[str, Task], output_dir: Path, model: str, regime: str) -> list:
    figures = []
    for name, task in tasks.items():
        predictions = None if task.regression else pooled_predictions(cells, output_dir, model, name, regime)
        if predictions is not None:
            logits, labels = predictions
            matrix = confusion_matrix(labels, logits.argmax(1), labels=range(logits.shape[1]))
            classes = load_splits(task.dataset)["test"].features["label"].names
            path = output_dir / "figures" / f"confusion-{name}.png"
            figures.append((column_of(name), plot_confusion(matrix, classes, path)))
    return figures


def error_figures(cells, tasks: dict[str, Task], output_dir: Path, models: list[str], regime: str) -> list:
    figures = []
    for name in [name for name, task in tasks.items() if task.regression]:
        errors_m = {}
        for model in [*models, RANDOM_ENCODER, HAND_FEATURES]:
            chosen = "linear" if model == HAND_FEATURES else regime
            if (found := pooled_predictions(cells, output_dir, model, name, chosen)) is not None:
                errors_m[model] = np.linalg.norm(found[0] - found[1], axis=1)
        path = output_dir / "figures" / f"errors-{name}.png"
        if errors_m:  # of fewer positions than the label budget there are none
            figures.append((column_of(name), plot_error_distributions(errors_m, path)))
    return figures


def embedding_figures(tasks: dict[str, Task], output_dir: Path, name: str, folder: str, limit: int = 400) -> list:
    """Frozen features of test rows: of the pretrained encoder, and of the same one with random weights."""
    figures = []
    pretrained = AutoModel.from_pretrained(folder).eval()
    torch.manual_seed(0)
    random = AutoModel.from_config(pretrained.config).eval()
    for task in tasks.values():
        processor = MMWFMProcessor.from_pretrained(output_dir / "processors" / f"{task.name}-{name}")
        rows = load_splits(task.dataset)["test"]
        rows = rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:limit]))
        if "image" in task.families and rows.features["image"].shape[0] != pretrained.config.num_channels:
            continue  # its channel adapter is trained with the task
        column = "position" if task.regression else "label"
        classes = [] if task.regression else rows.features["label"].names
        collator = MMWFMDataCollator(processor, task.settings.get("carrier_shift", 0.0))
        features = {name: embed_rows(pretrained, rows, collator), RANDOM_ENCODER: embed_rows(random, rows, collator)}
        path = output_dir / "figures" / f"embeddings-{task.name}.png"
        figures.append((column_of(task.name), plot_embeddings(features, np.asarray(rows[column][:]), classes, path)))
    return figures


def pretraining_figures(models: dict[str, str]) -> list:
    found = []
    for name, folder in models.items():
        for path in [Path(folder) / "losses.png", *sorted(Path(folder).glob("reconstruction_*.png"))]:
            if path.is_file():
                found.append((f"{name}: {path.stem.replace('_', ' ')}", path))
    return found


def write_benchmark_report(
    arguments: BenchmarkArguments,
    models: dict[str, str],
    tasks: dict[str, Task],
    twins: list[str],
    cells: list[Cell],
    summary: pd.DataFrame,
    published: dict | None,
) -> Path:
    """Draw everything and write `report.html`.

    Args:
        models: name -> checkpoint, the multimodal one first.
        twins: names of the simulated tasks, which stand beside the published numbers; the others have tables of their own.
        published: content of `configuration/published_results.yaml`.
    """
    output_dir, first = Path(arguments.output_dir), next(iter(models))
    (output_dir / "figures").mkdir(exist_ok=True)
    # What has one label budget shows the largest.
    budgets = read_budgets(arguments.label_budgets)
    most = None if None in budgets else max(budgets)
    labels = "all labels" if most is None else f"{most} labels per class"
    at_most = [cell for cell in cells if cell.samples_per_class == most]
    tables = []
    for group, numbers in (("simulated twins", published), ("other data sets", None)):
        part = at_budget(summary, most)
        part = part[part["task"].isin(twins) == (numbers is not None)]
        for table in paper_tables(part, list(models), arguments.regimes, numbers) if len(part) else []:
            tables.append({**table, "title": f"{table['title']} ({group}, {labels})"})
    num_labels = {column: tasks[task].rows_of_class for task, column in zip(summary["task"], summary["column"])}
    curves = [
        (REGIME_NAMES.get(regime, regime), plot_label_efficiency(summary, regime, num_labels, path))
        for regime in arguments.regimes
        if len(arguments.label_budgets) > 1  # one point is no curve
        for path in [output_dir / "figures" / f"labels-{regime}.png"]
    ]
    regime = arguments.regimes[-1]
    shown = REGIME_NAMES.get(regime, regime)
    sections = [
        {"title": "Label efficiency", "note": "Bars: standard deviation over seeds.", "images": curves},
        {
            "title": f"Confusion matrices: {first}, {shown}, {labels}",
            "note": "Rows: true class, in percent; the test splits of all seeds together.",
            "images": confusion_figures(at_most, tasks, output_dir, first, regime),
        },
        {
            "title": f"Localisation error: {shown}, {labels}",
            "note": "",
            "images": error_figures(at_most, tasks, output_dir, list(models), regime),
        },
        {
            "title": "Pretraining",
            "note": "Original, masked and reconstructed validation samples; visible parts are kept as they are.",
            "images": pretraining_figures(models),
        },
        {
            "title": "Frozen embeddings of test rows (t-SNE)",
            "note": "Coloured by class or coordinate. Tasks whose channel adapter is not trained yet are left out.",
            "images": embedding_figures(tasks, output_dir, first, models[first]),
        },
    ]
    seeds = f"{len(arguments.seeds)} seed{'s' if len(arguments.seeds) > 1 else ''}"
    introduction = (
        f"{len(cells):,} cells: {', '.join(models)} and controls; {len(tasks)} tasks; budgets of "
        f"{', '.join(arguments.label_budgets)} labels per class; {seeds}. Validation picked the epoch, the test split was "
        "used once per cell. Splits are by recording, device, day, room or position, never by window."
    )
    return write_page(
        "Benchmark", introduction, tables, [s for s in sections if s["images"]], output_dir / "report.html"
    )
