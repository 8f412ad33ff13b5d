"""Train a student by a weighted sum of losses against frozen teachers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from distillers.data.batch import Batch
from distillers.distillation.dropping import TeacherDropping, groups_of
from distillers.distillation.ema_teacher import EMATeacher
from distillers.distillation.labelled import call_for_labelled
from distillers.distillation.several import (
    Combine,
    cached_values,
    combine_logits,
    normalize_weights,
)
from distillers.distillation.task import Step, Task
from distillers.distillation.teacher import FrozenTeacher
from distillers.distillation.terms import (
    Term,
    active_after_warmup,
    check_scalar,
    check_sole_readers,
    check_terms,
    is_stateful,
    warmup_epochs,
)
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork, has_logits
from distillers.features.extractor import FeatureExtractor, Features
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring
from distillers.losses.hooks import HasWarmup, as_deploying, as_preparing, as_warming_up

FEATURES = wiring.FROM_STUDENT.keys() | wiring.FROM_TEACHER.keys()


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
        trains_classifier: whether a loss reads the student's logits.

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
        check_terms(terms)
        self.student = student
        self.losses = nn.ModuleDict({term.name: term.loss for term in terms})
        self.weights = {term.name: term.weight for term in terms}
        self._inputs = {term.name: _bound_inputs(term.loss.forward) for term in terms}
        self._warmup_inputs = {
            term.name: _bound_inputs(loss.warmup)
            for term in terms
            if (loss := as_warming_up(term.loss))
        }
        check_sole_readers(terms, self._inputs)
        names = {
            name
            for inputs in (*self._inputs.values(), *self._warmup_inputs.values())
            for name in inputs
        }
        self.warmup_epochs = max(warmup_epochs(term.loss) for term in terms)
        self.reads_progress = "progress" in names
        self._reads_targets = "targets" in names
        self._need_labels = {term.name for term in terms if wiring.needs_labels(term.loss)}
        self.full_batches = any(
            "batch_size" in wiring.constructor_facts(type(term.loss)) for term in terms
        )
        for preparing in filter(None, map(as_preparing, self.losses.values())):
            preparing.prepare(student, student_taps)
        self.reads_strong = any(name.endswith(wiring.STRONG) for name in names)
        self._reads_teacher_strong = any(name in names for name in wiring.FROM_TEACHER_STRONG)
        tables = (wiring.FROM_STUDENT, wiring.FROM_STUDENT_STRONG)
        student_kinds = {table[name] for table in tables for name in names & table.keys()}
        self._student_extractor = FeatureExtractor(
            student, student_taps, student_kinds | {"logits"}
        )
        nets = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
        all_taps = [teacher_taps] if isinstance(teacher_taps, Taps) else list(teacher_taps)
        is_one = teacher_trace is None or isinstance(teacher_trace, ForwardTrace)
        traces = [teacher_trace] * len(nets) if is_one else teacher_trace
        self._teacher_of = {term.name: term.teacher for term in terms}
        self.teachers = [
            FrozenTeacher(net, taps, self._kinds_of(number, "", wiring.STRONG), trace)
            for number, (net, taps, trace) in enumerate(zip(nets, all_taps, traces, strict=True))
        ]
        self.followers = nn.ModuleList([net for net in nets if isinstance(net, EMATeacher)])
        self.teacher_weights = normalize_weights(teacher_weights, len(nets))
        self.combine: Combine = combine
        self._groups = groups_of(terms) if drop_teachers else {}
        self.dropping = nn.ModuleDict({name: TeacherDropping() for name in self._groups})
        self.deploys = any(as_deploying(term.loss) for term in terms)
        self.trains_classifier = any(name.startswith("student_logits") for name in names)
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

    @property
    def teacher_stages(self) -> frozenset[int]:
        """Indices of the first teacher's stage maps that the losses read; see `stages_of`."""
        return self.stages_of(0)

    def stages_of(self, number: int) -> frozenset[int]:
        """Return the indices of a teacher's stage maps that the losses read.

        These are all stages, unless each loss that reads `teacher_maps` has `teacher_stages`.
        """
        count = len(self.teachers[number].extractor.taps.maps)
        return self._read_of(number, "teacher_maps", "teacher_stages", count)

    def blocks_of(self, number: int) -> frozenset[int]:
        """Return the indices of a teacher's blocks whose tokens the losses read.

        These are all blocks, unless each loss that reads `teacher_tokens` has `teacher_blocks`.
        """
        count = len(self.teachers[number].extractor.taps.tokens)
        return self._read_of(number, "teacher_tokens", "teacher_blocks", count)

    def _read_of(self, number: int, given: str, member: str, count: int) -> frozenset[int]:
        found: set[int] = set()
        for name in self._terms_of(number):
            if given in (*self._inputs[name], *self._warmup_inputs.get(name, ())):
                read: Any = getattr(self.losses[name], member, range(count))
                found |= {range(count)[place] for place in read}
        return frozenset(found)

    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        """Compute the weighted sum of the losses for one batch.

        In the warm-up stage it is the unweighted sum of the `warmup` losses.

        Args:
            batch: images, labels and index; and the teachers' features, if they were cached.
            progress: fraction of the current stage that is done, in [0, 1).
        """
        for follower in self.followers if self.training else ():
            cast(EMATeacher, follower).follow(self.student)
        of_teachers = [self._read_cached(batch, number) for number in range(len(self.teachers))]
        common = _loop_values(batch, progress)
        common |= _prefixed("student", self._student_extractor(batch.images))
        if self._reads_targets:
            common["targets"] = batch.soft_targets(common["student_logits"].shape[1])
        values = self._for_terms(common, of_teachers)
        if self.reads_strong:
            self._add_strong(values, self._read_strong(batch))
        if self.stage == "warmup":
            parts = self._warmup_parts(values, batch)
            weights = dict.fromkeys(parts, 1.0)  # as published
        else:
            parts = self._parts(values, batch)
            weights = self.weights
        scales = dict.fromkeys(self._need_labels, batch.labelled_share)
        weighted = {n: weights[n] * scales.get(n, 1.0) * part for n, part in parts.items()}
        # Without gradient: DDP would take a classifier that no loss trains for one that is trained.
        logits = common["student_logits"].detach() if self._returns_logits else None
        return Step(
            torch.stack([*weighted.values()]).sum(),
            {name: part.detach() for name, part in parts.items()},
            logits,
            tuple(name for name in parts if name in self._need_labels),
            *(self._split(weighted) if self.splits_loss else ()),
        )

    def _split(self, weighted: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Return the sums of the losses that read no teacher, and of the others."""
        inputs = self._warmup_inputs if self.stage == "warmup" else self._inputs
        halves: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, value in weighted.items():
            reads_teacher = any(each.startswith("teacher_") for each in inputs[name])
            halves[reads_teacher].append(value)
        first, second = (torch.stack(half).sum() if half else None for half in halves)
        return first, second

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
        return _prefixed("teacher", frozen(images))

    def train(self, mode: bool = True) -> "Distillation":
        """Set the mode of the student and the losses; the teacher stays in evaluation mode."""
        for frozen in self.teachers:
            frozen.sync_weights()  # a compiled step cannot do it
        super().train(mode)
        self.followers.eval()
        return self

    def check_losses(
        self, student: ForwardTrace, teacher: ForwardTrace | Sequence[ForwardTrace]
    ) -> None:
        """Check before the training that each loss accepts the networks and trains the student.

        Losses without parameters and buffers are run on traced features. Of the others, which a
        call may change, only the gradient of what they read is checked.

        Raises:
            InputError: with the message of the ValueError of a loss, or if its value is not a
                scalar or gives the student no gradient.
        """
        rows = torch.arange(len(student.images), device=student.images.device)
        batch = Batch(student.images, rows * 0, rows)
        traces = [teacher] if isinstance(teacher, ForwardTrace) else teacher
        extractor = self._student_extractor
        common = _loop_values(batch, 0.0)
        common |= _prefixed("student", student.read(extractor.taps, extractor.kinds))
        common["targets"] = batch.soft_targets(common["student_logits"].shape[1])
        of_teachers = [
            _prefixed("teacher", frozen.read_trace(trace))
            for frozen, trace in zip(self.teachers, traces, strict=True)
        ]
        values = self._for_terms(common, of_teachers)
        self._add_strong(values, values)
        for name in self.losses:
            inputs = (*self._inputs[name], *self._warmup_inputs.get(name, ()))
            read = {key: values[name][key] for key in inputs if key != "targets"}
            _check_trainable(name, read, student)
        stateless = [name for name, loss in self.losses.items() if not is_stateful(loss)]
        try:
            with torch.enable_grad():
                parts = self._parts(values, batch, stateless)
        except ValueError as error:
            raise InputError(str(error)) from error
        for name, part in parts.items():
            if not part.requires_grad:
                raise InputError(f"the loss {name} has no gradient with respect to the student.")

    def deployed(self) -> nn.Module:
        """Return the network to evaluate, save and export.

        It is the student, its backbone if it has no head, or what a loss with `deploy` makes of it.
        """
        for loss in self.losses.values():
            deploying = as_deploying(loss)
            if deploying:
                return deploying.deploy(self.student, self.student_taps)
        if isinstance(self.student, HeadedNetwork) and not self.student.has_logits:
            return self.student.net
        return self.student

    def networks(self) -> list[nn.Module]:
        """Return the student, and the copies of the teachers that are run."""
        return [self.student, *(frozen.fused for frozen in self.teachers)]

    def _terms_of(self, number: int) -> list[str]:
        """Return the names of the terms that read a teacher, alone or with the others."""
        return [name for name, one in self._teacher_of.items() if one in (number, None)]

    def _kinds_of(self, number: int, *suffixes: str) -> set[str]:
        """Return what the losses read of a teacher, on the first view or those of the suffixes."""
        terms = self._terms_of(number)
        read = {name for term in terms for name in self._inputs[term]}
        read |= {name for term in terms for name in self._warmup_inputs.get(term, ())}
        return {
            kind
            for suffix in suffixes or ("",)
            for name, kind in wiring.FROM_TEACHER.items()
            if f"{name}{suffix}" in read
        }

    def _read_cached(self, batch: Batch, number: int) -> Features:
        """Return what the losses read of a teacher, from the batch if it holds it."""
        kinds = sorted(self._kinds_of(number))
        if not kinds:
            return {}
        cached = cached_values(batch.teacher, number, [f"teacher_{kind}" for kind in kinds])
        if cached is not None:
            return cached
        images = batch.teacher_images
        return self.read_teacher(images, number) if number else self.read_teacher(images)

    def _read_strong(self, batch: Batch) -> dict[str, dict[str, Any]]:
        """Return what the losses may read of the second view, by the name of the term.

        Each view is a forward of its own, so that batch normalization does not mix them.
        """
        if batch.strong is None:
            raise InputError(
                "a loss reads a second, strongly augmented view of the images, which this batch "
                "does not have; give Batch(strong=...)."
            )
        student = _prefixed("student", self._student_extractor(batch.strong))
        numbers = range(len(self.teachers))
        read = self._reads_teacher_strong
        return self._for_terms(
            student, [self.read_teacher(batch.strong, n) if read else {} for n in numbers]
        )

    def _add_strong(
        self, values: dict[str, dict[str, Any]], strong: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Add the features of the second view to the values of each term."""
        for name, features in strong.items():
            values[name] |= {
                f"{key}{wiring.STRONG}": features[key] for key in features.keys() & FEATURES
            }

    def _for_terms(
        self, common: Mapping[str, Any], of_teachers: Sequence[Features]
    ) -> dict[str, dict[str, Any]]:
        """Return the values that the losses may read, by the name of the term."""
        together = of_teachers[0]
        if len(of_teachers) > 1:
            logits = [each.get("teacher_logits") for each in of_teachers]
            found = cast(list[Tensor], logits if all(x is not None for x in logits) else [])
            together = {}
            if found:
                mean = combine_logits(found, self.teacher_weights, self.combine)
                together["teacher_logits"] = mean
        return {
            name: {**common, **(together if number is None else of_teachers[number])}
            for name, number in self._teacher_of.items()
        }

    def _parts(
        self,
        values: Mapping[str, Mapping[str, Any]],
        batch: Batch,
        names: list[str] | None = None,
    ) -> dict[str, Tensor]:
        parts = {} if names is not None else self._dropped_parts(values, batch)
        for name, loss in self.losses.items():
            if name in parts:
                continue
            if active_after_warmup(loss) and (names is None or name in names):
                inputs = {key: values[name][key] for key in self._inputs[name]}
                parts[name] = self._call(name, loss, inputs, batch)
                if self.reads_strong and set(inputs) <= {*wiring.ON_EVERY_VIEW, *wiring.OPTIONAL}:
                    inputs["student_logits"] = values[name][f"student_logits{wiring.STRONG}"]
                    parts[name] = parts[name] + self._call(name, loss, inputs, batch)
        return parts

    def _dropped_parts(
        self, values: Mapping[str, Mapping[str, Any]], batch: Batch
    ) -> dict[str, Tensor]:
        """Return the terms of which teachers are dropped."""
        parts = {}
        for group, names in self._groups.items():
            losses = [
                cast(Any, self.losses[name]).per_image(
                    **{key: values[name][key] for key in self._inputs[name]}
                )
                for name in names
            ]
            found = self.dropping[group](losses, batch.index, batch.rows_per_rank)
            parts |= dict(zip(names, found, strict=True))
        return parts

    def _warmup_parts(
        self, values: Mapping[str, Mapping[str, Any]], batch: Batch
    ) -> dict[str, Tensor]:
        parts = {}
        for name, keys in self._warmup_inputs.items():
            warmup = cast(HasWarmup, self.losses[name]).warmup
            inputs = {key: values[name][key] for key in keys}
            parts[name] = self._call(name, warmup, inputs, batch)
        return parts

    def _call(
        self, name: str, function: Callable[..., Tensor], inputs: dict[str, Any], batch: Batch
    ) -> Tensor:
        """Compute a loss of the images that it can use: all, or those with a label."""
        if name in self._need_labels:
            trained = self.losses[name].parameters()
            part = call_for_labelled(function, inputs, batch, trained)
        else:
            part = function(**inputs)
        check_scalar(name, part)
        return part

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distillation":
        for frozen in self.teachers:
            frozen.apply(fn, recurse)
        return super()._apply(fn, recurse)


def _check_trainable(name: str, inputs: Mapping[str, Any], student: ForwardTrace) -> None:
    """Check that a trainable parameter of the student affects some of what a loss reads.

    Raises:
        InputError: if none does.
    """
    read = {key: value for key, value in inputs.items() if key.startswith("student_")}
    if not any(x.requires_grad for x in tree_leaves(read)):
        raise InputError(
            f"the loss {name} gives {type(student.net).__name__} no gradient: it reads "
            f"{', '.join(read) or 'nothing of the student'}, which no trainable parameter affects; "
            "name other modules, as in student_taps=Taps(maps=(...), head=...)."
        )


def _loop_values(batch: Batch, progress: float) -> dict[str, Any]:
    """Return the values of `wiring.FROM_LOOP` and `wiring.OPTIONAL` by name, without `targets`."""
    return {
        "labels": batch.labels,
        "index": batch.index,
        "progress": progress,
        "rows_per_rank": batch.rows_per_rank,
    }


def _bound_inputs(function: Callable) -> tuple[str, ...]:
    """Return the names of the parameters of a `forward` or `warmup` that get a value."""
    return (*wiring.forward_inputs(function), *wiring.optional_inputs(function))


def _prefixed(side: str, features: Features) -> Features:
    """Return features by the names of the losses' parameters, e.g. "student_logits"."""
    return {f"{side}_{kind}": value for kind, value in features.items()}
