"""t-SNE of the pooled features.

van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008. The features are the input
of the classifier. (A public script embeds the logits, in which the classifier has already separated
the classes.) Distances between clusters and cluster sizes have no meaning in such a plot.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from pandas import DataFrame, concat
from torch import Tensor

from distillers.figures.paper import MARKERS, FigureData, make_panels, num_columns, shorten
from distillers.figures.responses import Responses

NUM_CLASSES = 10
NUM_IMAGES = 1000
PERPLEXITY = 30.0
MAX_ITER = 1000

# Tol's color-blind safe "muted" scheme and a gray; the markers differ too.
TINTS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#AA4499"),
    *("#999933", "#882255", "#44AA99", "#DDCC77", "#777777"),
)


def embed(features: Tensor, *, seed: int = 0, perplexity: float = PERPLEXITY) -> Tensor:
    """Compute scikit-learn's t-SNE embedding (n, 2) of features (n, d), initialized by PCA.

    Reproducible on one machine with the same number of threads.
    """
    from sklearn.manifold import TSNE  # slow to import

    values = features.double().numpy()
    layout = TSNE(
        n_components=2,
        perplexity=perplexity,
        init="pca",
        learning_rate="auto",
        max_iter=MAX_ITER,
        random_state=seed,
    )
    return torch.from_numpy(np.asarray(layout.fit_transform(values), dtype=np.float64))


def select_images(labels: Tensor, num_classes: int, count: int, seed: int) -> Tensor:
    """Select equally many of `count` images of evenly spaced classes; return indices (m,) int64."""
    present = labels.unique()
    picks = torch.linspace(0, len(present) - 1, min(num_classes, len(present))).round().long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    each = max(1, count // len(picks))
    rows = [order[labels[order] == label][:each] for label in present[picks]]
    return torch.cat(rows).sort().values


def plot(
    responses: Sequence[Responses],
    class_names: Sequence[str],
    *,
    seed: int = 0,
    num_images: int = NUM_IMAGES,
    perplexity: float = PERPLEXITY,
) -> FigureData:
    """Plot the embedding of the same images, of at most ten classes, for each network.

    Raises:
        ValueError: if a network has no pooled features.
    """
    labels = responses[0].labels
    rows = select_images(labels, NUM_CLASSES, num_images, seed)
    perplexity = min(perplexity, (len(rows) - 1) / 3)  # the limit of scikit-learn
    kinds = labels[rows].unique().tolist()
    height = {1: 2.8, 2: 1.65, 3: 1.15}[num_columns(len(responses))]
    figure, axes = make_panels(len(responses), panel_height=height, extra=0.35)
    table = []
    for panel, each in zip(axes, responses, strict=True):
        if each.pooled is None:
            raise ValueError(f"{each.name} has no pooled features.")
        places = embed(each.pooled[rows], seed=seed, perplexity=perplexity)
        _scatter(panel, places, labels[rows], kinds)
        panel.set_title(each.name)
        shown = [class_names[label] for label in labels[rows].tolist()]
        columns = {"image": rows, "class": shown, "x": places[:, 0], "y": places[:, 1]}
        table.append(DataFrame({"network": each.name, **columns}))
    handles = axes[0].get_legend_handles_labels()[0]
    across = [i for start in range(5) for i in range(start, len(kinds), 5)]  # legends fill columns
    figure.legend(
        [handles[i] for i in across],
        [shorten(class_names[kinds[i]]) for i in across],
        loc="outside lower center",
        ncols=5,
        columnspacing=0.8,
        markerscale=1.6,
    )
    part = f" of {len(kinds)} of {len(class_names)} classes"
    which = part if len(kinds) < len(class_names) else ""
    caption = (
        f"t-SNE of the pooled features (classifier inputs) of {len(rows):,} test images{which}, "
        f"perplexity {perplexity:g}, initialized by PCA, seed {seed}."
    )
    return FigureData("tsne", figure, caption, concat(table))


def _scatter(panel: Axes, places: Tensor, labels: Tensor, kinds: Sequence[int]) -> None:
    for number, kind in enumerate(kinds):
        x, y = places[labels == kind].T.numpy()
        shape, tint = MARKERS[number % len(MARKERS)], TINTS[number % len(TINTS)]
        panel.scatter(x, y, s=4, marker=shape, color=tint, linewidths=0, alpha=0.85, label=kind)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_aspect("equal", "datalim")
    panel.spines[:].set_color("#bbbbbb")
