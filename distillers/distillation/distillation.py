"""Train a student by a weighted sum of losses against frozen teachers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.distillation.dropping import TeacherDropping, groups_of
from distillers.distillation.ema_teacher import EMATeacher
from distillers.distillation.multi_teacher import (
    Combine,
    cached_values,
    combine_features,
    normalize_weights,
)
from distillers.distillation.task import Step, Task
from distillers.distillation.teacher import FrozenTeacher
from distillers.distillation.terms import Term
from distillers.distillation.weighted_sum import (
    ValuesByTerm,
    WeightedSum,
    add_strong,
    loop_values,
    prefixed,
)
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork, has_logits
from distillers.features.extractor import FeatureExtractor, Features
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring
from distillers.losses.hooks import as_deploying, as_preparing, as_warming_up


class Distillation(Task):
    """A student that learns from frozen teachers by a weighted sum of losses.

    A teacher is not a submodule: it is not in the state dict or the parameters, wrappers such as
    DistributedDataParallel do not see it, and it stays in evaluation mode. `.to(...)` moves it too.
    An `EMATeacher` is one: it follows the student at the beginning of every training step.

    Args:
        student: maps images (n, c, h, w) to logits (n, k), or a `HeadedNetwork` without head, whose
            backbone is deployed.
        teacher: maps the same images to logits (n, k); it is frozen. Or several teachers.
        terms: the losses and their weights. A loss that reads several teachers together reads their
            logits only.
        student_taps: where to read the student.
        teacher_taps: where to read the teacher, or each of them.
        teacher_trace: of the teacher, or of each; if given, a faster copy of the teacher is run,
            see `distillers.distillation.teacher`.
        teacher_weights: of several teachers where their logits are read together; equal by default.
        combine: "probabilities" or "logits", what is averaged over several teachers.
        drop_teachers: whether to drop teachers image by image, see `TeacherDropping`.

    Attributes:
        deploys: whether a loss deploys another network than the student.
        trains_classifier: whether a loss reads the student's logits or class maps.

    Raises:
        InputError: if the terms are not a valid loss, or the taps lack what the losses read.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module],
        terms: list[Term],
        *,
        student_taps: Taps,
        teacher_taps: Taps | Sequence[Taps],
        teacher_trace: ForwardTrace | Sequence[ForwardTrace | None] | None = None,
        teacher_weights: Sequence[float] | None = None,
        combine: Combine = "probabilities",
        drop_teachers: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self._sum = WeightedSum(terms)
        self.losses, self.weights = self._sum.losses, self._sum.weights
        names = self._sum.names
        staged = filter(None, (as_warming_up(term.loss) for term in terms))
        self.warmup_epochs = max((loss.warmup_epochs for loss in staged), default=0)
        self.reads_progress = "progress" in names
        self._reads_targets = "targets" in names
        self.full_batches = any(
            "batch_size" in wiring.constructor_facts(type(term.loss)) for term in terms
        )
        for preparing in filter(None, map(as_preparing, self.losses.values())):
            preparing.prepare(student, student_taps)
        self.reads_strong = any(name.endswith(wiring.STRONG) for name in names)
        self._reads_teacher_strong = any(name in names for name in wiring.FROM_TEACHER_STRONG)
        self._student_extractor = FeatureExtractor(
            student, student_taps, self._sum.student_kinds() | {"logits"}
        )
        nets = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
        all_taps = [teacher_taps] if isinstance(teacher_taps, Taps) else list(teacher_taps)
        is_several = isinstance(teacher_trace, Sequence)
        traces = teacher_trace if is_several else [teacher_trace] * len(nets)
        self.teachers = [
            FrozenTeacher(net, taps, self._sum.teacher_kinds(number, "", wiring.STRONG), trace)
            for number, (net, taps, trace) in enumerate(zip(nets, all_taps, traces, strict=True))
        ]
        self.followers = nn.ModuleList([net for net in nets if isinstance(net, EMATeacher)])
        self.teacher_weights = normalize_weights(teacher_weights, len(nets))
        self.combine: Combine = combine
        self._groups = groups_of(terms) if drop_teachers else {}
        self.dropping = nn.ModuleDict({name: TeacherDropping() for name in self._groups})
        self.deploys = any(as_deploying(term.loss) for term in terms)
        self.trains_classifier = any(
            name.startswith(("student_logits", "student_class_maps")) for name in names
        )
        self._returns_logits = has_logits(student) and not self.deploys

    @property
    def frozen(self) -> FrozenTeacher:
        """The first teacher, and the copy of it that is run."""
        return self.teachers[0]

    @property
    def teacher(self) -> nn.Module:
        """The first teacher; the network that is run is `frozen.fused`."""
        return self.frozen.net

    @property
    def student_taps(self) -> Taps:
        """Where the student is read."""
        return self._student_extractor.taps

    @property
    def teacher_taps(self) -> Taps:
        """Where the first teacher is read."""
        return self.frozen.extractor.taps

    def places_read(self, number: int) -> dict[str, frozenset[int]]:
        """Return the indices of a teacher's stage maps and blocks of tokens that the losses read.

        These are all, unless each loss that reads them has `teacher_stages` or `teacher_blocks`.
        """
        taps, read = self.teachers[number].extractor.taps, self._sum.places_read
        return {
            "maps": read(number, "teacher_maps", "teacher_stages", len(taps.maps)),
            "tokens": read(number, "teacher_tokens", "teacher_blocks", len(taps.tokens)),
        }

    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        """Compute the weighted sum of the losses for one batch.

        In the warm-up stage it is the unweighted sum of the `warmup` losses. A teacher whose
        features are in the batch is not run. For `progress` see `Task.forward`.
        """
        for follower in self.followers if self.training else ():
            cast(EMATeacher, follower).follow(self.student)
        of_teachers = [self._read_cached(batch, number) for number in range(len(self.teachers))]
        common = loop_values(batch, progress)
        common |= prefixed("student", self._student_extractor(batch.images))
        if self._reads_targets:
            common["targets"] = batch.soft_targets(common["student_logits"].shape[1])
        values = self._by_term(common, of_teachers)
        if self.reads_strong:
            add_strong(values, self._read_strong(batch))
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._sum.check_gradients(values, self.student)
        if self.stage == "warmup":
            parts = self._sum.warmup_parts(values, batch)
            weights = dict.fromkeys(parts, 1.0)  # as published
        else:
            parts = self._dropped_parts(values, batch)
            others = [name for name in self.losses if name not in parts]
            parts |= self._sum.parts(values, batch, others)
            weights = self.weights
        weighted = self._sum.weigh(parts, weights, batch.labelled_share)
        # Without gradient: DDP would take a classifier that no loss trains for one that is trained.
        logits = common["student_logits"].detach() if self._returns_logits else None
        return Step(
            torch.stack([*weighted.values()]).sum(),
            {name: part.detach() for name, part in parts.items()},
            logits,
            tuple(name for name in parts if name in self._sum.need_labels),
            *(self._sum.split(weighted, self.stage) if self.splits_loss else ()),
        )

    @torch.no_grad()
    def read_teacher(self, images: Tensor, number: int = 0) -> Features:
        """Run a teacher on images (n, c, h, w), and return what the losses read of it.

        The keys are the names of the losses' parameters, e.g. "teacher_logits". If no loss reads
        the teacher, it is not run and the result is empty.
        """
        frozen = self.teachers[number]
        if not frozen.extractor.kinds:
            return {}
        if not torch.compiler.is_compiling():
            frozen.sync_weights()
        return prefixed("teacher", frozen(images))

    def train(self, mode: bool = True) -> "Distillation":
        """Set the mode of the student and the losses; the teacher stays in evaluation mode."""
        for frozen in self.teachers:
            frozen.sync_weights()  # a compiled step cannot do it
        super().train(mode)
        self.followers.eval()
        return self

    def check_losses(self, student: ForwardTrace, teachers: Sequence[ForwardTrace]) -> None:
        """Check before the training that each loss accepts the networks and trains the student.

        Raises:
            InputError: see `WeightedSum.check`.
        """
        rows = torch.arange(len(student.images), device=student.images.device)
        batch = Batch(student.images, rows * 0, rows)
        extractor = self._student_extractor
        common = loop_values(batch, 0.0)
        common |= prefixed("student", student.read(extractor.taps, extractor.kinds))
        common["targets"] = batch.soft_targets(common["student_logits"].shape[1])
        of_teachers = [
            prefixed("teacher", frozen.read_trace(trace))
            for frozen, trace in zip(self.teachers, teachers, strict=True)
        ]
        values = self._by_term(common, of_teachers)
        if self.reads_strong:
            add_strong(values, values)
        self._sum.check(values, batch, student)

    def deployed(self) -> nn.Module:
        """Return the network to evaluate, save and export.

        It is the student, its backbone if it has no head, or what a loss with `deploy` makes of it.
        """
        for loss in self.losses.values():
            if deploying := as_deploying(loss):
                return deploying.deploy(self.student, self.student_taps)
        if isinstance(self.student, HeadedNetwork) and not self.student.has_logits:
            return self.student.net
        return self.student

    def networks(self) -> list[nn.Module]:
        """Return the student, and the copies of the teachers that are run."""
        return [self.student, *(frozen.fused for frozen in self.teachers)]

    def _read_cached(self, batch: Batch, number: int) -> Features:
        """Return what the losses read of a teacher, from the batch if it holds it."""
        kinds = sorted(self._sum.teacher_kinds(number))
        if not kinds:
            return {}
        cached = cached_values(batch.teacher, number, [f"teacher_{kind}" for kind in kinds])
        if cached is not None:
            return cached
        return self.read_teacher(batch.teacher_images, number)

    def _read_strong(self, batch: Batch) -> ValuesByTerm:
        """Return what the losses may read of the second view, by the name of the term.

        Each view is a separate forward, so that batch normalization does not mix them.
        """
        if batch.strong is None:
            raise InputError(
                "a loss reads a second, strongly augmented view of the images, which this batch "
                "does not have; give Batch(strong=...)."
            )
        student = prefixed("student", self._student_extractor(batch.strong))
        numbers = range(len(self.teachers))
        read = self._reads_teacher_strong
        return self._by_term(
            student, [self.read_teacher(batch.strong, n) if read else {} for n in numbers]
        )

    def _by_term(self, common: Mapping[str, Any], of_teachers: Sequence[Features]) -> ValuesByTerm:
        """Return the values that each loss may read."""
        together = combine_features(of_teachers, self.teacher_weights, self.combine)
        return self._sum.by_term(common, together, of_teachers)

    def _dropped_parts(self, values: ValuesByTerm, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of which teachers are dropped."""
        parts = {}
        for group, names in self._groups.items():
            losses = self._sum.per_image(names, values)
            found = self.dropping[group](losses, batch.index, batch.rows_per_rank)
            parts |= dict(zip(names, found, strict=True))
        return parts

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distillation":
        for frozen in self.teachers:
            frozen.apply(fn, recurse)
        return super()._apply(fn, recurse)
