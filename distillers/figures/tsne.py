"""Where a network puts the images of a few classes, laid flat by t-SNE.

van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008. What is laid out are the
pooled features, the input of the classifier. (A public script lays out the logits, in which the
classifier has already told the classes apart.) Distances between groups and their sizes mean
nothing in such a picture; which images lie together does.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from distillers.figures.paper import Picture, panels, short
from distillers.figures.responses import Responses

NUM_CLASSES = 10
NUM_IMAGES = 1000
PERPLEXITY = 30.0
MAX_ITER = 1000

# Tol's "muted" scheme and a grey, told apart by colour-blind readers; the markers differ too.
TINTS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#AA4499"),
    *("#999933", "#882255", "#44AA99", "#DDCC77", "#777777"),
)
SHAPES = "osv^D<>Pp*"


def lay_out(features: Tensor, *, seed: int = 0, perplexity: float = PERPLEXITY) -> Tensor:
    """Places (n, 2) in a plane, of scikit-learn's t-SNE, begun from the principal components.

    The same seed gives the same places on one machine; on another, or with another number of
    threads, sums are added in another order.

    Args:
        features: (n, d).
        seed: any whole number from 0.
        perplexity: how many neighbours count.
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


def chosen_images(labels: Tensor, num_classes: int, count: int, seed: int) -> Tensor:
    """Rows (m,) int64, as many of each class, of classes that are spread over all of them.

    Args:
        labels: (n,) int64.
        num_classes: how many classes to take at most.
        count: how many images to take at most.
        seed: decides which.
    """
    present = labels.unique()
    picks = torch.linspace(0, len(present) - 1, min(num_classes, len(present))).round().long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    each = max(1, count // len(picks))
    rows = [order[labels[order] == label][:each] for label in present[picks]]
    return torch.cat(rows).sort().values


def draw(
    responses: Sequence[Responses],
    class_names: Sequence[str],
    *,
    seed: int = 0,
    num_images: int = NUM_IMAGES,
    perplexity: float = PERPLEXITY,
) -> Picture:
    """The same images by each network.

    Args:
        responses: of networks that show their pooled features, to the same images.
        class_names: one a class.
        seed: of the choice of images and of t-SNE.
        num_images: how many at most, of ten classes at most.
        perplexity: see `lay_out`; at most a third of the images is taken.

    Raises:
        ValueError: when a network shows no pooled features.
    """
    labels = responses[0].labels
    rows = chosen_images(labels, NUM_CLASSES, num_images, seed)
    perplexity = min(perplexity, (len(rows) - 1) / 3)  # each has that many neighbours to count
    kinds = labels[rows].unique().tolist()
    columns = 2 if len(responses) in (2, 4) else min(len(responses), 3)
    height = {1: 2.8, 2: 1.65, 3: 1.15}[columns]
    figure, axes = panels(len(responses), columns=columns, panel_height=height, extra=0.35)
    table: list[dict[str, object]] = []
    for panel, each in zip(axes, responses, strict=True):
        if each.pooled is None:
            raise ValueError(f"{each.name} shows no pooled features.")
        places = lay_out(each.pooled[rows], seed=seed, perplexity=perplexity)
        _scatter(panel, places, labels[rows], kinds)
        panel.set_title(each.name)
        table += [
            {
                "network": each.name,
                "image": row,
                "class": class_names[int(labels[row])],
                "x": float(x),
                "y": float(y),
            }
            for row, (x, y) in zip(rows.tolist(), places.tolist(), strict=True)
        ]
    handles = axes[0].get_legend_handles_labels()[0]
    across = [i for start in range(5) for i in range(start, len(kinds), 5)]  # it fills columns
    figure.legend(
        [handles[i] for i in across],
        [short(class_names[kinds[i]]) for i in across],
        loc="outside lower center",
        ncols=5,
        columnspacing=0.8,
        markerscale=1.6,
    )
    which = f"{len(kinds)} of {len(class_names)} classes" if len(kinds) < len(class_names) else ""
    caption = (
        f"t-SNE of the pooled features of {len(rows):,} test images"
        + (f" of {which}" if which else "")
        + f", perplexity {perplexity:g}, begun from the principal components, seed {seed}."
    )
    return Picture("tsne", figure, caption, table)


def _scatter(panel: Axes, places: Tensor, labels: Tensor, kinds: Sequence[int]) -> None:
    for number, kind in enumerate(kinds):
        x, y = places[labels == kind].T.numpy()
        shape, tint = SHAPES[number % len(SHAPES)], TINTS[number % len(TINTS)]
        panel.scatter(x, y, s=4, marker=shape, color=tint, linewidths=0, alpha=0.85, label=kind)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_aspect("equal", "datalim")
    panel.spines[:].set_color("#bbbbbb")
