"""Give a teacher a head for the classes of a data set, or take its classifier away."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers.distillation.heads.class_embeddings import CosineClassifier
from distillers.distillation.heads.linear import LinearHead, fit_logistic, fit_ridge
from distillers.errors import InputError
from distillers.features.backbone import (
    HeadedNetwork,
    check_same_embedding,
    has_logits,
    headed,
    num_classes,
    without_classifier,
)
from distillers.features.class_map import ClassMap, MappedNetwork
from distillers.features.extractor import check_logits, eval_mode
from distillers.features.infer import infer_taps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace, run
from distillers.features.unwrap import unwrap


def as_backbone(net: nn.Module, images: Tensor) -> HeadedNetwork:
    """Return a network that maps images to embeddings: `net` without its classifier, if it has one.

    The classifier is that of `infer_taps`. Where there is none and `net` has no `num_classes`, its
    output is the embedding.

    Args:
        net: maps images (n, c, h, w) to logits or embeddings; it is not changed, and its modules
            are shared with the result.
        images: (n, c, h, w), any content, of the size that it will get.

    Raises:
        InputError: if the input of the classifier is no embedding that can be read.
    """
    found = headed(net)
    if found and not found[0]:
        return HeadedNetwork(found[1].net, transform=found[1].transform)
    if not has_logits(net):
        return HeadedNetwork(net)
    if isinstance(getattr(unwrap(net)[1], "head_dist", None), nn.Linear):
        several = copy.deepcopy(net)  # timm's networks of two classifiers can take both away
        cast(Any, unwrap(several)[1]).reset_classifier(0)
        return HeadedNetwork(several)
    with torch.no_grad():
        output = run(net, images[:2])
    if isinstance(output, Tensor) and output.ndim == 4:
        return HeadedNetwork(net)
    trace = ForwardTrace(net, images)
    places = infer_taps(trace)
    if places.head and not isinstance(net.get_submodule(places.head), nn.Identity):
        return _without_one_classifier(trace, places)
    if not places.head and num_classes(net):
        raise InputError(
            f"{type(net).__name__} has no classifier whose input could be its embedding; name that "
            "layer, as in teacher_taps=Taps(maps=(...), head=...), or give a network that returns "
            "embeddings (n, d)."
        )
    return HeadedNetwork(net)


def with_class_embeddings(
    net: nn.Module, images: Tensor, class_embeddings: Tensor, temperature: float
) -> HeadedNetwork:
    """Return the network with the cosines to class embeddings as its logits.

    The embedding is the network's output, as that of CLIP after its projection, or else the input
    of its classifier, whichever has the width of the class embeddings (k, d). The images are as for
    `as_backbone`.

    Raises:
        InputError: if neither has width d.
    """
    width = class_embeddings.shape[1]
    head = CosineClassifier(class_embeddings, temperature)
    with torch.no_grad():
        own = run(HeadedNetwork(net), images[:2]).shape[1]
    if own == width:
        return HeadedNetwork(net, head)
    backbone = as_backbone(net, images)
    with torch.no_grad():
        inner = run(backbone, images[:2]).shape[1]
    if inner != width:
        widths = f"{own}" if inner == own else f"{own} numbers, its classifier takes {inner}"
        raise InputError(
            f"the class embeddings have width {width}, but {type(backbone.net).__name__} returns "
            f"{widths}; the text encoder must be the one that was trained with this network."
        )
    return HeadedNetwork(backbone.net, head)


def with_class_map(
    net: nn.Module, images: Tensor, assignment: Sequence[int], num_classes: int
) -> MappedNetwork:
    """Return the network with its classes mapped to others; see `ClassMap`.

    Raises:
        InputError: if the network has another number of classes than the map.
    """
    own = num_logits(net, images)
    if not has_logits(net) or own != len(assignment):
        what = f"{own} classes" if has_logits(net) else "no classifier"
        raise InputError(
            f"the class map is for {len(assignment)} classes, but {type(net).__name__} has {what}."
        )
    return MappedNetwork(net, ClassMap(assignment, num_classes))


def num_logits(net: nn.Module, images: Tensor) -> int:
    """Return the number of logits of a network.

    Raises:
        InputError: if it returns none.
    """
    with torch.no_grad():
        logits = run(net, images[:2])
    check_logits(net, logits, len(images[:2]))
    return logits.shape[1]


def embed(net: nn.Module, batches: Iterable[Iterable[Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the outputs (N, d) of a network in float32, and the labels (N,), of all batches.

    A batch begins with images (n, c, h, w) and labels (n,).
    """
    vectors, labels = [], []
    with torch.no_grad(), eval_mode(net):
        for images, classes, *_ in batches:
            vectors.append(net(images).float())
            labels.append(classes.to(images.device))
    return _joined(vectors), torch.cat(labels)


def _joined(parts: list[Tensor]) -> Tensor:
    """Return tensors (n, d) as one, and empty the list, so that both are never whole in memory."""
    found = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    end = len(found)
    while parts:
        part = parts.pop()
        found[end - len(part) : end] = part
        end -= len(part)
    return found


def fit(embeddings: Tensor, labels: Tensor, num_classes: int, method: str) -> LinearHead:
    """Fit a linear head to embeddings (N, d) with labels (N,); -1 is an image without label.

    The method is "fit" for ridge regression, or "logistic", for which the embeddings are first
    divided by their root mean square, so that C = 1 means the same for every teacher.
    """
    if method == "fit":
        return fit_ridge(embeddings, labels, num_classes)
    used = embeddings[labels.to(embeddings.device) >= 0].double()
    size = float(used.square().mean().sqrt()) or 1.0
    found = fit_logistic(embeddings.double() / size, labels, num_classes)
    return replace(found, weight=found.weight / size)


def describe(head: LinearHead, num_images: int) -> str:
    """Return one line about a fitted head."""
    classes, width = head.weight.shape
    how, where = "logistic regression", "of these images"
    if head.method == "ridge":
        how = f"ridge regression, strength {head.strength:.3g} by leave-one-out"
        where = "of the images left out"
    return (
        f"teacher head: {how}, on embeddings of {width:,} numbers of {num_images:,} labelled "
        f"images of {classes} classes: {100 * head.accuracy:.2f} % {where} are right"
    )


def _without_one_classifier(trace: ForwardTrace, places: Taps) -> HeadedNetwork:
    pooled = trace.read(places, ["pooled"])["pooled"]
    assert isinstance(pooled, Tensor)
    backbone = HeadedNetwork(without_classifier(trace.net, places.head))
    with eval_mode(backbone):
        check_same_embedding(backbone, trace.images, pooled)
    return backbone
