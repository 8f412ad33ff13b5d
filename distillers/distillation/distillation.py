"""The task that the library ships: a student, a frozen teacher, and a weighted sum of losses."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.distillation.task import Step, Task
from distillers.distillation.teacher import FrozenTeacher
from distillers.distillation.terms import (
    Term,
    active_after_warmup,
    check_scalar,
    check_terms,
    is_stateful,
    warmup_epochs,
)
from distillers.errors import InputError
from distillers.features.classifier import head_of
from distillers.features.infer import find_taps
from distillers.features.taps import FeatureExtractor, Taps, eval_mode, measure
from distillers.losses import wiring


class Distillation(Task):
    """A student that learns from a frozen teacher by a weighted sum of losses.

    The teacher is held outside the module tree: it has no part in the state dict, the parameters,
    or a wrapper such as DistributedDataParallel, and it stays in evaluation mode. It moves along
    with `.to(...)`.

    Args:
        student: maps images (n, c, h, w) to logits (n, k).
        teacher: likewise; it is frozen here.
        terms: the summands.
        student_taps: where to read the student.
        teacher_taps: where to read the teacher.
        images: (n, c, h, w), any content, of the size and on the device to come: then a faster copy
            is read in the teacher's place, see `distillers.distillation.teacher`.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        terms: list[Term],
        *,
        student_taps: Taps,
        teacher_taps: Taps,
        images: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_terms(terms)
        self.student = student
        self.losses = nn.ModuleDict({term.name: term.loss for term in terms})
        self.weights = {term.name: term.weight for term in terms}
        self._reads = {term.name: wiring.forward_inputs(term.loss.forward) for term in terms}
        self._warmup_reads = {
            term.name: wiring.forward_inputs(cast(Any, term.loss).warmup)
            for term in terms
            if warmup_epochs(term.loss)
        }
        every = (*self._reads.values(), *self._warmup_reads.values())
        asked = {name for names in every for name in names}
        self.warmup_epochs = max(warmup_epochs(term.loss) for term in terms)
        self.reads_progress = "progress" in asked
        self.full_batches = any(
            "batch_size" in wiring.constructor_facts(type(term.loss)) for term in terms
        )
        student_kinds = {wiring.FROM_STUDENT[n] for n in asked if n in wiring.FROM_STUDENT}
        teacher_kinds = {wiring.FROM_TEACHER[n] for n in asked if n in wiring.FROM_TEACHER}
        self._student_extractor = FeatureExtractor(
            student, student_taps, student_kinds | {"logits"}
        )
        self.frozen = FrozenTeacher(teacher, teacher_taps, teacher_kinds, images)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher as it was given; `frozen.fused` is what runs."""
        return self.frozen.net

    @property
    def teacher_taps(self) -> Taps:
        """Where the teacher is read."""
        return self.frozen.extractor.taps

    @property
    def teacher_stages(self) -> frozenset[int]:
        """Which of the teacher's stage maps the losses read, from 0; all where one does not say."""
        every = range(len(self.teacher_taps.maps))
        found: set[int] = set()
        for name, loss in self.losses.items():
            if "teacher_maps" in (*self._reads[name], *self._warmup_reads.get(name, ())):
                found |= {every[stage] for stage in getattr(loss, "teacher_stages", every)}
        return frozenset(found)

    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        """One step's loss.

        Args:
            batch: images, labels and index.
            progress: share of the training that is done, in [0, 1]; below 0 in the first stage.
        """
        values: dict[str, Any] = {
            "labels": batch.labels,
            "index": batch.index,
            "progress": progress,
        }
        values |= self.read_teacher(batch.images) if batch.teacher is None else batch.teacher
        read = self._student_extractor(batch.images)
        values |= {f"student_{kind}": value for kind, value in read.items()}
        if progress < 0:
            parts = self._warmup_parts(values)
            weighted = list(parts.values())  # as published, a first stage has no weights
        else:
            parts = self._parts(values)
            weighted = [self.weights[name] * part for name, part in parts.items()]
        logits = None if self._deploying() else values["student_logits"]
        noted = {name: part.detach() for name, part in parts.items()}
        return Step(torch.stack(weighted).sum(), noted, logits)

    @torch.no_grad()
    def read_teacher(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """What the losses ask of the teacher, by the names that they use; perhaps nothing."""
        if not self.frozen.extractor.wanted:
            return {}
        if not torch.compiler.is_compiling():
            self.frozen.sync_weights()
        return {f"teacher_{kind}": value for kind, value in self.frozen.extractor(images).items()}

    def train(self, mode: bool = True) -> "Distillation":
        """The mode of the student and the losses; the teacher stays in evaluation mode."""
        self.frozen.sync_weights()  # a compiled step cannot
        return super().train(mode)

    @torch.no_grad()
    def check_losses(self, images: Tensor) -> None:
        """Run the losses that keep nothing once, to learn what they refuse before training starts.

        Raises:
            InputError: as such a loss says, of networks that do not go together.
        """
        rows = torch.arange(len(images), device=images.device)
        values: dict[str, Any] = {"labels": rows * 0, "index": rows, "progress": 0.0}
        with eval_mode(self.student):
            read = self._student_extractor(images)
        values |= self.read_teacher(images)
        values |= {f"student_{kind}": value for kind, value in read.items()}
        for name, loss in self.losses.items():
            if active_after_warmup(loss) and not is_stateful(loss):
                try:
                    value = loss(**{key: values[key] for key in self._reads[name]})
                except ValueError as error:
                    raise InputError(str(error)) from error
                check_scalar(name, value)

    def deployed(self) -> nn.Module:
        """The network that is scored, saved, exported: the student, or what a loss makes of it."""
        deploying = self._deploying()
        return deploying[0].deploy(self.student) if deploying else self.student

    def _parts(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        parts = {}
        for name, loss in self.losses.items():
            if active_after_warmup(loss):
                parts[name] = loss(**{key: values[key] for key in self._reads[name]})
                check_scalar(name, parts[name])
        return parts

    def _warmup_parts(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        parts = {}
        for name, keys in self._warmup_reads.items():
            loss = cast(Any, self.losses[name])
            parts[name] = loss.warmup(**{key: values[key] for key in keys})
            check_scalar(name, parts[name])
        return parts

    def _deploying(self) -> list[Any]:
        return [loss for loss in self.losses.values() if hasattr(loss, "deploy")]

    def _apply(self, fn: Any, recurse: bool = True) -> "Distillation":
        self.frozen.apply(fn, recurse)
        return super()._apply(fn, recurse)


def distil(
    student: nn.Module,
    teacher: nn.Module,
    weights: Mapping[str, float],
    *,
    images: Tensor,
    train_labels: Tensor | None = None,
    batch_size: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    student_taps: Taps | None = None,
    teacher_taps: Taps | None = None,
) -> Distillation:
    """Wire a student, a teacher and losses by name.

    Args:
        student: maps images (n, c, h, w) to logits (n, k).
        teacher: likewise, of any architecture.
        weights: weight by loss name, as in `{"ce": 1.0, "crd": 0.8}`; a name may be
            "package.module:Class". A weight of zero leaves the loss out.
        images: (n, c, h, w), any content, of the shape that the networks will see, on their device.
        train_labels: (N,) labels of the training set, for losses that ask for them.
        batch_size: images a step, for losses that ask for it.
        options: options by loss name, as in `{"crd": {"negatives": 4096}}`.
        student_taps: where to read the student; found by rule where left out.
        teacher_taps: where to read the teacher; found by rule where left out.

    Raises:
        InputError: for anything that cannot work: an unknown loss or option, networks with
            different numbers of classes, a tap that does not exist.
    """
    chosen = {name: weight for name, weight in weights.items() if weight != 0}
    classes = {name: wiring.find(name) for name in chosen}
    short = {name: cls.__name__.lower() for name, cls in classes.items()}
    for name in options or {}:
        if name not in short.values():
            raise InputError(f"options were given for {name!r}, which is not among the losses.")
    student_taps = find_taps(student, images, student_taps)
    teacher_taps = find_taps(teacher, images, teacher_taps)
    for cls in classes.values():
        wiring.check_readable(cls, student_taps, teacher_taps)
    cast(Any, student).taps = student_taps  # a deployed network is cut where the student is read
    facts = _facts(student, teacher, student_taps, teacher_taps, images)
    facts |= {"train_labels": train_labels, "batch_size": batch_size}
    terms = [
        Term(short[name], wiring.build(cls, facts, (options or {}).get(short[name])), chosen[name])
        for name, cls in classes.items()
    ]
    task = Distillation(
        student,
        teacher,
        terms,
        student_taps=student_taps,
        teacher_taps=teacher_taps,
        images=images,
    )
    task.to(images.device)
    task.check_losses(images)
    return task


def _facts(
    student: nn.Module, teacher: nn.Module, student_taps: Taps, teacher_taps: Taps, images: Tensor
) -> dict[str, Any]:
    of_student = measure(student, student_taps, images)
    of_teacher = measure(teacher, teacher_taps, images)
    if of_student.num_classes != of_teacher.num_classes:
        raise InputError(
            f"the teacher tells {of_teacher.num_classes} classes apart and the student "
            f"{of_student.num_classes}; they must agree."
        )
    return {
        "student_dim": of_student.dim or None,
        "teacher_dim": of_teacher.dim or None,
        "student_channels": list(of_student.channels),
        "teacher_channels": list(of_teacher.channels),
        "student_sizes": list(of_student.sizes),
        "teacher_sizes": list(of_teacher.sizes),
        "teacher_head": head_of(teacher, teacher_taps, images),
        "num_classes": of_student.num_classes,
    }
