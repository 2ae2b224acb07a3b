"""The page of the demonstration: what the model sees, what its features are worth, what it does not know."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from .figures_mmwfm import save_figure
from .report_mmwfm import embed

RELEASED, HAND = "released features, fitted head", "hand-made features, linear"
# (model, regime) of the grid's cells -> how the page calls it, in the order of its tables, and its colour
METHODS = {
    ("released", "probe"): (RELEASED, "#0b5fa5"),
    ("released", "lora"): ("LoRA on the released model", "#56b4e9"),
    ("random encoder", "probe"): ("random weights, fitted head", "#8a8a8a"),
    ("released", "scratch"): ("trained from scratch", "#d55e00"),
    ("hand features", "linear"): (HAND, "#009e73"),
}


@dataclass(frozen=True)
class DemoTask:
    """What the page says of a task.

    Args:
        title, text: its name and two sentences; `credit` names the authors of measured data, as HTML.
        num_classes, num_rows: of the training split of the first draw.
        notes: what stands beside its numbers.
    """

    title: str
    text: str
    credit: str
    num_classes: int
    num_rows: int
    notes: tuple[str, ...]


PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --blue: #0b5fa5 }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); margin: 0; background: #fff }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 .75rem } h2 { font-size: 1.35rem; margin: 2.75rem 0 .5rem }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem }
p { max-width: 46rem } .lead { font-size: 1.1rem } .note, figcaption { color: var(--soft); font-size: .9rem }
a { color: var(--blue) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .93rem; margin: .5rem 0 }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem }
th { font-weight: 600 } td.best { font-weight: 700 } th.group { text-align: center }
tr.ours td:first-child { color: var(--blue); font-weight: 600 }
figure { margin: .75rem 0; overflow-x: auto } img { width: 100%; min-width: 36rem; max-width: 56rem; height: auto; display: block }
figcaption { position: sticky; left: 0 }
.pair { display: flex; flex-wrap: wrap; gap: 1rem } .pair figure { margin: 0; flex: 1 1 17rem }
.pair img { min-width: 0 }
pre { background: #f5f7f9; border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem }
</style></head><body><main>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
<div class="wide"><table><tr><th rowspan="2">mean accuracy over classes, percent</th>
{% for task in summary.tasks %}<th class="group" colspan="{{ summary.budgets | length }}">{{ task }}</th>{% endfor %}</tr>
<tr>{% for task in summary.tasks %}{% for budget in summary.budgets %}<th style="text-align: right; min-width: 0">{{ budget }}</th>{% endfor %}{% endfor %}</tr>
{% for row in summary.rows %}<tr{% if row.ours %} class="ours"{% endif %}><td>{{ row.name }}</td>
{% for cell in row.cells %}<td{% if cell.best %} class="best"{% endif %}>{{ cell.text }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<p class="note">{{ summary.note }}</p>
{% for part in tasks %}<h2>{{ part.task.title }}</h2>
<p>{{ part.task.text }}{% if part.task.credit %} <span class="note">{{ part.task.credit | safe }}</span>{% endif %}</p>
<h3>What the model sees and reconstructs</h3>
<figure><img alt="original, masked and reconstructed input" src="data:image/png;base64,{{ part.reconstruction }}">
<figcaption>{{ part.seen }}</figcaption></figure>
<h3>Accuracy over labels</h3>
<figure><img alt="accuracy over labels per class" src="data:image/png;base64,{{ part.curve }}"></figure>
<div class="wide"><table><tr><th>labels per class</th>{% for budget in part.budgets %}<th>{{ budget }}</th>{% endfor %}<th>seconds, {{ part.budgets[-1] }} labels</th></tr>
{% for row in part.rows %}<tr{% if row.ours %} class="ours"{% endif %}><td>{{ row.name }}</td>
{% for cell in row.cells %}<td{% if cell.best %} class="best"{% endif %}>{{ cell.text }}</td>{% endfor %}<td>{{ row.seconds }}</td></tr>{% endfor %}</table></div>
{% for note in part.task.notes %}<p class="note">{{ note }}</p>{% endfor %}
<h3>Embeddings in a plane</h3>
<figure><img alt="embeddings" src="data:image/png;base64,{{ part.embedding }}">
<figcaption>Test rows, which nothing was fitted to, by t-SNE of the frozen features; colours are the true classes.</figcaption></figure>
<h3>Which classes are taken for which</h3>
<div class="pair">{% for name, image in part.confusions %}<figure style="max-width: {{ 13 + 1.7 * part.task.num_classes }}rem"><img alt="{{ name }}" src="data:image/png;base64,{{ image }}">
<figcaption>{{ name }}</figcaption></figure>{% endfor %}</div>
<h3>Inputs that it does not know</h3>
<figure><img alt="novelty" src="data:image/png;base64,{{ part.novelty }}">
<figcaption>Novelty of the fitted head: above 1 an input lies farther from its training rows than 99 % of rows held out of
them. {{ part.auroc }}</figcaption></figure>
{% endfor %}
<h2>How long it took</h2>
<div class="wide"><table><tr><th>step</th><th>seconds</th></tr>{% for name, seconds in times %}<tr><td>{{ name }}</td><td>{{ seconds }}</td></tr>{% endfor %}</table></div>
<p class="note">{{ machine }}</p>
<h2>With your own recordings</h2>
<pre>{{ commands }}</pre>
</main></body></html>
""")


def collect_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells with `task`, `model`, `regime`, `samples_per_class`, `value` and `seconds` -> their mean and spread."""
    keys = ["task", "model", "regime", "samples_per_class"]
    numbers = frame.groupby(keys, dropna=False, sort=False).agg(
        mean=("value", "mean"), std=("value", "std"), count=("value", "count"), seconds=("seconds", "mean")
    )
    return numbers.reset_index()


def budget_name(samples_per_class) -> str:
    return "all" if pd.isna(samples_per_class) else f"{samples_per_class:.0f}"


def make_rows(numbers: pd.DataFrame, budgets: list) -> list[dict]:
    """Rows of a task's table, in the order of `METHODS`; the best of each column is marked."""
    best = {}
    for budget, part in numbers.groupby(numbers["samples_per_class"].map(budget_name), sort=False):
        best[budget] = part["mean"].max()
    rows = []
    for (model, regime), (name, _) in METHODS.items():
        own = numbers[(numbers["model"] == model) & (numbers["regime"] == regime)]
        own = own.set_index(own["samples_per_class"].map(budget_name))
        if own.empty:
            continue
        cells = [
            cell_of(own.loc[budget], best[budget]) if budget in own.index else dict(text="–") for budget in budgets
        ]
        seconds = own["seconds"].get(budgets[-1], np.nan)
        rows.append({"name": name, "cells": cells, "ours": name == RELEASED, "seconds": f"{seconds:.3g}"})
    return rows


def cell_of(row: pd.Series, best: float) -> dict:
    spread = "" if np.isnan(row["std"]) else f" ± {row['std']:.1f}"
    return {"text": f"{row['mean']:.1f}{spread}", "best": row["mean"] == best}


def plot_curve(numbers: pd.DataFrame, rows_of_class: int, path: Path) -> Path:
    """Accuracy over labels per class, a line and its spread for each method; "all" stands where it is."""
    figure = Figure(figsize=(8.4, 4.2))
    axes = figure.subplots()
    for (model, regime), (name, color) in METHODS.items():
        own = numbers[(numbers["model"] == model) & (numbers["regime"] == regime)]
        labels = own["samples_per_class"].fillna(rows_of_class)
        order = np.argsort(labels.to_numpy())
        labels, mean, std = (
            labels.to_numpy()[order],
            own["mean"].to_numpy()[order],
            own["std"].fillna(0).to_numpy()[order],
        )
        axes.plot(
            labels, mean, "o-", color=color, label=name, markersize=4, linewidth=2.4 if name == RELEASED else 1.4
        )
        axes.fill_between(labels, mean - std, mean + std, color=color, alpha=0.08, linewidth=0)
    axes.set_xscale("log")
    ticks = sorted(set(numbers["samples_per_class"].fillna(rows_of_class)))
    axes.set_xticks(ticks, [f"{tick:.0f}" if tick < rows_of_class else f"all\n({tick:.0f})" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labels per class", ylabel="mean accuracy over classes (%)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    return save_figure(figure, path)


def plot_seen(parts, title: tuple[str, str], path: Path) -> Path:
    """The first sample of what `figures_mmwfm.reconstruct` gives: original, masked, reconstructed.

    Args:
        title: labels of the vertical and the horizontal axis.
    """
    images = [part[0, 0] for part in parts[:3]]
    low, high = np.percentile(images[0], [2, 99.5])
    figure = Figure(figsize=(9.5, 2.6), layout="constrained")
    for axes, image, name in zip(figure.subplots(1, 3, sharey=True), images, ("original", "masked", "reconstructed")):
        axes.imshow(image, vmin=low, vmax=high, cmap="viridis", aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=name, xlabel=title[1], ylabel=title[0] if name == "original" else "")
    return save_figure(figure, path)


def plot_novelty(own: np.ndarray, others: dict[str, np.ndarray], path: Path) -> Path:
    """Novelty of a task's test rows and of other inputs, a row of points for each; the line at 1 is the border."""
    groups = {"its own test rows": own} | others
    figure = Figure(figsize=(8.4, 0.62 * len(groups) + 0.9))
    axes, generator = figure.subplots(), np.random.default_rng(0)
    for number, values in enumerate(groups.values()):
        color = "#0b5fa5" if number == 0 else "#d55e00"
        height = -number + generator.uniform(-0.22, 0.22, len(values))
        axes.scatter(np.maximum(values, 0.05), height, s=9, alpha=0.45, color=color, linewidths=0)
        axes.plot([np.median(values)] * 2, [-number - 0.34, -number + 0.34], color=color, linewidth=2)
    axes.axvline(1, color="#1c2430", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.minorticks_off()
    axes.set_xlim(0.2, max(4.0, 1.3 * max(float(values.max()) for values in groups.values())))
    axes.set_yticks([-number for number in range(len(groups))], list(groups), fontsize=9)
    axes.set(xlabel="novelty (1: farther than 99 % of rows like its training rows)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return save_figure(figure, path)


def auroc(own: np.ndarray, others: np.ndarray) -> float:
    return float(roc_auc_score(np.r_[np.zeros(len(own)), np.ones(len(others))], np.r_[own, others]))


def write_page(path: Path, **content) -> Path:
    """Fill the page; pictures among the content, by their paths, are put into it."""
    for part in content["tasks"]:
        for name in ("reconstruction", "curve", "embedding", "novelty"):
            part[name] = embed(part[name])
        part["confusions"] = [(name, embed(image)) for name, image in part["confusions"]]
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(PAGE.render(**content))
    return unfinished.replace(path)
