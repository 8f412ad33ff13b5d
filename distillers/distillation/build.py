"""Build a distillation from a student, its teachers and the names of losses."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers.distillation.distillation import Distillation
from distillers.distillation.ema_teacher import EMATeacher
from distillers.distillation.heads.prepare import KEEP, Batches, Head, prepare_teacher
from distillers.distillation.multi_teacher import Combine, normalize_weights
from distillers.distillation.readable import Traced, check_readable
from distillers.distillation.terms import Term
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork, has_logits
from distillers.features.classifier import copy_classifier
from distillers.features.infer import infer_taps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring


def distil(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    weights: Mapping[str, float],
    *,
    images: Tensor,
    train_labels: Tensor | None = None,
    batch_size: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    student_taps: Taps | Sequence[str] | None = None,
    teacher_taps: Taps | Sequence[str] | None = None,
    teacher_head: Head = KEEP,
    class_map: str | Path | Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    labelled: Batches | None = None,
    teacher_weights: Sequence[float] | None = None,
    combine: Combine = "probabilities",
    drop_teachers: bool = False,
) -> Distillation:
    """Build a distillation from the names of its losses.

    Each network is run once, on two images, to infer its taps and shapes and to check the losses;
    a fused copy of the teacher is run once to compare it.

    With several teachers a loss that reads logits only compares the student with their average,
    unless `combine` is "each". Every other loss that reads a teacher is built once for each, with
    the same initial parameters where the shapes agree, named "fitnet_1", "fitnet_2", ..., and
    weighted by its teacher.

    Args:
        student: maps images (n, c, h, w) to logits (n, k); or to embeddings (n, d), if its
            `num_classes` is 0 as in timm or it is a `HeadedNetwork` without head.
        teacher: maps the same images to logits (n, k), or to others with a `teacher_head` or
            `class_map`; any architecture. It is frozen. Or several teachers, also an `EMATeacher`.
        weights: weight by loss name, e.g. `{"ce": 1.0, "crd": 0.8}`; a name may be
            "package.module:Class". Losses with weight zero are left out.
        images: (n, c, h, w), any content, with the shape and device of the training images.
        train_labels: (N,) labels of the training set, for losses that require them.
        batch_size: images per step, for losses that require it.
        options: options by loss name, e.g. `{"crd": {"negatives": 4096}}`.
        student_taps: where to read the student, or the paths of its stage maps only; inferred by
            default.
        teacher_taps: the same for the teacher; for each, if there are several.
        teacher_head: "keep" the teacher's classifier, "fit" one to its embeddings, or another; see
            `distillers.prepare_teacher`.
        class_map: from the teacher's classes to the student's; see there.
        class_names: of the student, for files of class embeddings or of a class map.
        labelled: batches of images and labels that a head is fitted to.
        teacher_weights: weight of each of several teachers, divided by their sum; equal by default.
        combine: what is averaged over several teachers for losses that read logits only:
            "probabilities" of the classes, or "logits"; or "each" for one term per teacher.
        drop_teachers: whether, for each image, the teacher with the largest loss counts always and
            every other with probability 1/2; for losses that have `per_image`.

    Raises:
        InputError: if a loss or option is unknown, the networks have different numbers of classes,
            a tap does not exist, or a loss does not accept the networks, reads logits of a network
            that has none, or gives the student no gradient.
    """
    classes = {name: wiring.find(name) for name, weight in weights.items() if weight != 0}
    _check_names(options or {}, classes.values())
    of_student = _trace(student, images, student_taps, with_grad=True)
    prepare = functools.partial(
        prepare_teacher,
        images=images,
        head=teacher_head,
        class_map=class_map,
        class_names=class_names,
        num_classes=of_student.trace.logits.shape[1] if has_logits(student) else None,
        labelled=labelled,
    )
    nets = [teacher] if isinstance(teacher, nn.Module) else teacher
    of_teachers = [_trace(prepare(net), images, teacher_taps) for net in nets]
    traces = [one.trace for one in of_teachers]
    shares = normalize_weights(teacher_weights, len(traces))
    check_readable(classes, of_student, of_teachers)
    facts = [_facts(of_student, one, train_labels, batch_size) for one in of_teachers]
    task = Distillation(
        of_student.trace.net,
        [trace.net for trace in traces],
        list(_terms(classes, weights, facts, options or {}, shares, combine)),
        student_taps=of_student.taps,
        teacher_taps=[one.taps for one in of_teachers],
        teacher_trace=[None if isinstance(t.net, EMATeacher) else t for t in traces],
        teacher_weights=shares,
        combine=combine,
        drop_teachers=drop_teachers,
    )
    task.to(images.device).check_losses(of_student.trace, traces)
    return task


def _check_names(options: Iterable[str], classes: Iterable[type[nn.Module]]) -> None:
    """Check that options are those of given losses."""
    known = {cls.__name__.lower() for cls in classes}
    for name in options:
        if name not in known:
            raise InputError(f"options were given for {name!r}, which is not among the losses.")


def _terms(
    classes: Mapping[str, type[nn.Module]],
    weights: Mapping[str, float],
    facts: Sequence[Mapping[str, Any]],
    options: Mapping[str, Mapping[str, Any]],
    shares: Sequence[float],
    combine: Combine,
) -> Iterator[Term]:
    """Yield one term for each loss, or one for each loss and teacher, from facts about teachers."""
    for given, cls in classes.items():
        name, weight = cls.__name__.lower(), weights[given]
        names = (each.removesuffix(wiring.STRONG) for each in wiring.reads(cls))
        of_teacher = {each for each in names if each.startswith("teacher_")}
        together = not of_teacher or (of_teacher == {"teacher_logits"} and combine != "each")
        if len(facts) == 1 or together:
            yield Term(name, wiring.build(cls, facts[0], options.get(name)), weight)
            continue
        state = torch.get_rng_state()
        for number, (about, share) in enumerate(zip(facts, shares, strict=True)):
            with torch.random.fork_rng(devices=[], enabled=number > 0):
                torch.set_rng_state(state)
                loss = wiring.build(cls, about, options.get(name))
            yield Term(f"{name}_{number + 1}", loss, weight * share, number)


def _trace(
    net: nn.Module,
    images: Tensor,
    taps: Taps | Sequence[str] | None,
    *,
    with_grad: bool = False,
) -> Traced:
    """Run a network, in a `HeadedNetwork` if it has no classifier, and find its taps."""
    is_headed = has_logits(net) or isinstance(net, HeadedNetwork)
    trace = ForwardTrace(net if is_headed else HeadedNetwork(net), images, with_grad=with_grad)
    if isinstance(taps, Taps):
        return Traced(trace, infer_taps(trace, taps))
    return Traced(trace, infer_taps(trace, maps=taps or ()))


def _facts(
    student: Traced,
    teacher: Traced,
    train_labels: Tensor | None,
    batch_size: int | None,
) -> dict[str, Any]:
    """Return the facts about networks and data, as listed in `wiring.FACTS`."""
    of_student = student.trace.shapes(student.taps)
    of_teacher = teacher.trace.shapes(teacher.taps)
    logits = has_logits(student.trace.net), has_logits(teacher.trace.net)
    if all(logits) and of_student.num_classes != of_teacher.num_classes:
        raise InputError(
            f"the teacher has {of_teacher.num_classes} classes and the student has "
            f"{of_student.num_classes}; they must be equal. A teacher of other classes needs a "
            "head (--teacher_head fit, or none for losses that read no logits) or --class_map "
            "FILE; a network that returns embeddings needs the attribute num_classes = 0."
        )
    return {
        "student_dim": of_student.dim or None,
        "teacher_dim": of_teacher.dim or None,
        "student_channels": list(of_student.channels),
        "teacher_channels": list(of_teacher.channels),
        "student_sizes": list(of_student.sizes),
        "teacher_sizes": list(of_teacher.sizes),
        "teacher_head": copy_classifier(teacher.trace, teacher.taps),
        "num_classes": of_student.num_classes if logits[0] else None,
        "train_labels": train_labels,
        "batch_size": batch_size,
    }
