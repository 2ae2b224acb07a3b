"""Figures of a benchmark, written as PNG."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from .figures_mmwfm import save_figure


def plot_label_efficiency(summary: pd.DataFrame, regime: str, num_labels: dict[str, int], path: Path) -> Path:
    """Metric over training rows per class, one panel per column of the tables, mean and standard deviation of every model.

    Args:
        summary: of `summarize`.
        regime: of the models; hand features and the network from scratch stand in every figure.
        num_labels: column -> training rows of the largest class, where "all" is drawn.
    """
    shown = summary[summary["regime"].isin([regime, "scratch", "linear"])]
    columns, names = list(dict.fromkeys(shown["column"])), list(dict.fromkeys(zip(shown["model"], shown["regime"])))
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    width = min(4, len(columns))
    figure = Figure(figsize=(3.6 * width, 3 * -(-len(columns) // width)))
    panels = figure.subplots(-(-len(columns) // width), width, squeeze=False).ravel()
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    for axes, column in zip(panels, columns):
        part = shown[shown["column"] == column]
        for name, curve in part.groupby(["model", "regime"], sort=False):
            curve = curve.assign(labels=curve["samples_per_class"].fillna(num_labels[column])).sort_values("labels")
            label = name[0] if name[1] in (regime, "linear") else "from scratch"
            spread = curve["std"].fillna(0)
            axes.errorbar(
                curve["labels"],
                curve["mean"],
                spread,
                fmt="o-",
                markersize=3,
                capsize=2,
                color=colors[name],
                label=label,
            )
        unit = part["unit"].iloc[0]
        axes.set_xscale("log")
        budgets = sorted(part["samples_per_class"].fillna(num_labels[column]).unique())
        axes.set_xticks(budgets, [f"{budget:.0f}" for budget in budgets])
        axes.minorticks_off()
        axes.set(title=column, xlabel="labels per class" if unit == "%" else "labelled positions")
        axes.set_ylabel("accuracy (%)" if unit == "%" else "mean error (m)")
        axes.grid(alpha=0.3)
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=len(handles), bbox_to_anchor=(0.5, -0.04)
    )
    figure.tight_layout()
    return save_figure(figure, path)


def plot_error_distributions(errors_m: dict[str, np.ndarray], path: Path, title: str = "") -> Path:
    """Cumulative distribution of the localisation error of several models."""
    figure = Figure(figsize=(5, 3.4))
    axes = figure.subplots()
    for name, values in errors_m.items():
        axes.plot(np.sort(values), np.arange(1, len(values) + 1) / len(values), label=name)
    axes.set(xlabel="localisation error (m)", ylabel="share of positions", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


@torch.no_grad()
def embed_rows(model, rows: Dataset, collator, batch_size: int = 64) -> np.ndarray:
    """Pooled features (rows, hidden_size) of a frozen encoder."""
    found = [model(**collator(rows[i : i + batch_size])).pooler_output for i in range(0, len(rows), batch_size)]
    return torch.cat(found).float().numpy()


def plot_embeddings(
    features: dict[str, np.ndarray], labels: np.ndarray, names: list[str], path: Path, title: str = "", seed: int = 0
) -> Path:
    """t-SNE of frozen features, a panel for each encoder, coloured by class (or by the first coordinate of a position)."""
    figure = Figure(figsize=(4.4 * len(features) + 1.5, 4))
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    for axes, (name, values) in zip(panels, features.items()):
        scaled = (values - values.mean(0)) / (values.std(0) + 1e-6)
        places = TSNE(perplexity=min(30, len(values) / 4), init="pca", random_state=seed).fit_transform(scaled)
        axes.set(title=name, xticks=[], yticks=[])
        if names:
            for number, label in enumerate(names):
                axes.scatter(
                    *places[labels == number].T,
                    s=9,
                    color=f"C{number % 10}",
                    label=label,
                    marker="os^vD*"[number // 10 % 6],
                )
        else:
            drawn = axes.scatter(*places.T, s=9, c=labels[:, 0], cmap="viridis")
    if names:
        panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, ncols=1 + (len(names) > 12))
    else:
        figure.colorbar(drawn, ax=panels[-1], label="first coordinate (m)")
    figure.suptitle(title)
    return save_figure(figure, path)
