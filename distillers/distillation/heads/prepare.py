"""Prepare a teacher of other classes, or without a classifier, for the classes of a data set."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor, nn

from distillers.distillation.heads.attach import (
    as_backbone,
    describe,
    embed,
    fit,
    num_logits,
    with_class_embeddings,
    with_class_map,
)
from distillers.distillation.heads.class_embeddings import TEMPERATURE, read_class_embeddings
from distillers.distillation.heads.class_map_file import class_names_of, read_class_map
from distillers.distillation.heads.class_map_file import describe as describe_map
from distillers.distillation.heads.phi_s import fit_phi_s
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork

log = logging.getLogger("distillers")

KEEP, NONE, FITTED = "keep", "none", ("fit", "logistic")
Head = str | Path | Tensor | nn.Module
Batches = Iterable[Iterable[Tensor]]


def prepare_teacher(
    teacher: nn.Module,
    images: Tensor,
    *,
    head: Head = KEEP,
    class_map: str | Path | Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    teacher_classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    labelled: Batches | None = None,
    temperature: float | None = None,
    standardize: bool = False,
    say: Callable[[str], None] = log.info,
) -> nn.Module:
    """Return a teacher whose logits are those of the data set's classes.

    The teacher is not changed; its modules are shared with the result.

    Args:
        teacher: maps images (n, c, h, w) to logits or, without a classifier, to embeddings (n, d).
        images: (n, c, h, w), any content, with the shape and device of the training images.
        head: "keep" its classifier; "fit" a linear one to its embeddings by ridge regression, or
            "logistic" by logistic regression; "none" for a network without logits; a safetensors
            file of class embeddings, see `read_class_embeddings`, or these as a tensor (k, d) in
            the order of the classes; or a module that maps embeddings (n, d) to logits (n, k).
        class_map: file that maps the teacher's classes to the data set's, see `read_class_map`; or
            for each class of the teacher the number of the data set's, -1 for none.
        class_names: of the data set, for files.
        teacher_classes: names of the teacher's classes; by default those of ImageNet if it has
            1,000.
        num_classes: k; by default the number of class names.
        labelled: batches of images (n, c, h, w) and labels (n,) to fit a head to, prepared as
            `images` are; a label of -1 is none.
        temperature: what cosines are divided by; by default that of the file, else 0.01.
        standardize: whether to standardize the embeddings by PHI-S, fitted to those of the images
            in `labelled`; for the heads "fit", "logistic" and "none".
        say: receives what was assumed and measured.

    Raises:
        InputError: if the teacher, the head and the classes do not fit each other.
    """
    num_classes = num_classes or len(class_names)
    if standardize:
        if labelled is None or not (isinstance(head, str) and head in (NONE, *FITTED)):
            raise InputError("standardize is for the heads fit, logistic and none, and `labelled`.")
        teacher = standardized(as_backbone(teacher, images), labelled)
    if class_map is not None:
        if not (isinstance(head, str) and head == KEEP):
            raise InputError("a class map is for the teacher's own classifier; give no other head.")
        assignment = _assignment(class_map, teacher, images, class_names, teacher_classes)
        names = class_names or list(map(str, range(num_classes)))
        say(f"class map: {describe_map(assignment, names)}")
        return with_class_map(teacher, images, assignment, num_classes)
    if isinstance(head, nn.Module | Tensor):
        return _with_given(teacher, images, head, temperature)
    if head == KEEP:
        return teacher
    if head == NONE:
        return as_backbone(teacher, images)
    if head in FITTED:
        return _with_fitted(teacher, images, str(head), labelled, num_classes, say)
    found = read_class_embeddings(Path(head), class_names)
    if found.note:
        say(found.note)
    temperature = temperature or found.temperature
    return with_class_embeddings(teacher, images, found.embeddings, temperature)


def standardized(backbone: HeadedNetwork, batches: Batches) -> HeadedNetwork:
    """Return a network without head whose embeddings are standardized by PHI-S.

    The statistics are those of `batches` of images (n, c, h, w) and labels.
    """
    embeddings, _ = embed(backbone, batches)
    transform = fit_phi_s(embeddings).to(embeddings.device)
    return HeadedNetwork(backbone.net, transform=transform)


def _with_given(
    teacher: nn.Module, images: Tensor, head: nn.Module | Tensor, temperature: float | None
) -> nn.Module:
    if isinstance(head, Tensor):
        return with_class_embeddings(teacher, images, head, temperature or TEMPERATURE)
    backbone = as_backbone(teacher, images)
    backbone.head = head.to(images.device)
    return backbone


def _with_fitted(
    teacher: nn.Module,
    images: Tensor,
    method: str,
    labelled: Batches | None,
    num_classes: int,
    say: Callable[[str], None],
) -> nn.Module:
    if labelled is None or num_classes < 2:
        raise InputError(
            f"the head {method!r} is fitted to labelled images: give `labelled`, batches of images "
            "and labels, and the number of classes."
        )
    backbone = as_backbone(teacher, images)
    embeddings, labels = embed(backbone, labelled)
    if int(labels.max()) >= num_classes:
        raise InputError(f"a label is {int(labels.max())}; there are {num_classes} classes.")
    found = fit(embeddings, labels, num_classes, method)
    say(describe(found, int((labels >= 0).sum())))
    backbone.head = found.module().to(images.device)
    return backbone


def _assignment(
    class_map: str | Path | Sequence[int],
    teacher: nn.Module,
    images: Tensor,
    class_names: Sequence[str],
    teacher_classes: Sequence[str] | None,
) -> Sequence[int]:
    if not isinstance(class_map, str | Path):
        return class_map
    names = class_names_of(num_logits(teacher, images), teacher_classes)
    return read_class_map(Path(class_map), names, class_names)
