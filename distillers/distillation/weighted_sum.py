"""A weighted sum of losses: what each loss reads, and their values."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.distillation.labelled import call_for_labelled
from distillers.distillation.terms import (
    Term,
    active_after_warmup,
    check_scalar,
    check_sole_readers,
    check_terms,
    check_trainable,
    is_stateful,
)
from distillers.errors import InputError
from distillers.features.extractor import Features
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring
from distillers.losses.hooks import HasWarmup, as_warming_up

FEATURES = wiring.FROM_STUDENT.keys() | wiring.FROM_TEACHER.keys()
ValuesByTerm = dict[str, dict[str, Any]]  # what the losses may read, by the names of the terms


class WeightedSum:
    """The losses of a distillation.

    Attributes:
        losses: the losses by the names of the terms.
        weights: their weights.
        inputs: names of the parameters of `forward` that get a value, by the names of the terms.
        warmup_inputs: the same of `warmup`, of the losses that have one.
        names: all of these names.
        need_labels: terms whose losses need labels.

    Raises:
        InputError: if the terms are not a valid loss.
    """

    def __init__(self, terms: list[Term]) -> None:
        check_terms(terms)
        self._terms = terms
        self.losses = nn.ModuleDict({term.name: term.loss for term in terms})
        self.weights = {term.name: term.weight for term in terms}
        self.inputs = {term.name: wiring.bound_inputs(term.loss.forward) for term in terms}
        self.warmup_inputs = {
            term.name: wiring.bound_inputs(loss.warmup)
            for term in terms
            if (loss := as_warming_up(term.loss))
        }
        check_sole_readers(terms, self.inputs)
        self.names = {name for term in terms for name in self.reads(term.name)}
        self.need_labels = {term.name for term in terms if wiring.needs_labels(term.loss)}

    def reads(self, term: str) -> tuple[str, ...]:
        """Return the names of what a loss reads in any stage."""
        return (*self.inputs[term], *self.warmup_inputs.get(term, ()))

    def student_kinds(self) -> set[str]:
        """Return what the losses read of the student, on any view."""
        tables = (wiring.FROM_STUDENT, wiring.FROM_STUDENT_STRONG)
        return {table[name] for table in tables for name in self.names & table.keys()}

    def teacher_kinds(self, number: int, *suffixes: str) -> set[str]:
        """Return what the losses read of a teacher, on the first view or those of the suffixes."""
        read = {name for term in self._terms_of(number) for name in self.reads(term)}
        return {
            kind
            for suffix in suffixes or ("",)
            for name, kind in wiring.FROM_TEACHER.items()
            if f"{name}{suffix}" in read
        }

    def places_read(self, number: int, name: str, member: str, count: int) -> frozenset[int]:
        """Return which of `count` features of a teacher, as "teacher_maps", the losses read.

        Losses that do not read all have the attribute `member`, as "teacher_stages".
        """
        found: set[int] = set()
        for term in self._terms_of(number):
            if name in self.reads(term):
                read: Any = getattr(self.losses[term], member, range(count))
                found |= {range(count)[place] for place in read}
        return frozenset(found)

    def by_term(
        self, common: Mapping[str, Any], together: Features, of_teachers: Sequence[Features]
    ) -> ValuesByTerm:
        """Return the values that each loss may read, by the names of the terms.

        All losses may read `common`, those of several teachers `together`, the others one of
        `of_teachers`.
        """
        return {
            term.name: {
                **common,
                **(together if term.teacher is None else of_teachers[term.teacher]),
            }
            for term in self._terms
        }

    def parts(
        self, values: ValuesByTerm, batch: Batch, names: Collection[str]
    ) -> dict[str, Tensor]:
        """Compute the losses of the given terms that are active after the warm-up stage.

        A loss of the labels and the student's logits is added up over both views, if there are two.
        """
        parts = {}
        for name, loss in self.losses.items():
            if active_after_warmup(loss) and name in names:
                inputs = {key: values[name][key] for key in self.inputs[name]}
                parts[name] = self._call(name, loss, inputs, batch)
                strong = values[name].get(f"student_logits{wiring.STRONG}")
                if strong is not None and set(inputs) <= {*wiring.ON_EVERY_VIEW, *wiring.OPTIONAL}:
                    inputs["student_logits"] = strong
                    parts[name] = parts[name] + self._call(name, loss, inputs, batch)
        return parts

    def warmup_parts(self, values: ValuesByTerm, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of the warm-up stage."""
        parts = {}
        for name, keys in self.warmup_inputs.items():
            warmup = cast(HasWarmup, self.losses[name]).warmup
            inputs = {key: values[name][key] for key in keys}
            parts[name] = self._call(name, warmup, inputs, batch)
        return parts

    def per_image(self, names: Sequence[str], values: ValuesByTerm) -> list[Tensor]:
        """Compute losses of each image (n,)."""
        losses: list[Any] = [self.losses[name] for name in names]
        return [
            loss.per_image(**{key: values[name][key] for key in self.inputs[name]})
            for name, loss in zip(names, losses, strict=True)
        ]

    def weigh(
        self, parts: Mapping[str, Tensor], weights: Mapping[str, float], labelled_share: float
    ) -> dict[str, Tensor]:
        """Multiply losses by their weights; those that need labels also by the labelled share."""
        scales = dict.fromkeys(self.need_labels, labelled_share)
        return {name: weights[name] * scales.get(name, 1.0) * x for name, x in parts.items()}

    def split(
        self, weighted: Mapping[str, Tensor], stage: Literal["warmup", "train"]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the sums of the losses that read no teacher, and of the others."""
        inputs = self.warmup_inputs if stage == "warmup" else self.inputs
        halves: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, value in weighted.items():
            reads_teacher = any(each.startswith("teacher_") for each in inputs[name])
            halves[reads_teacher].append(value)
        first, second = (torch.stack(half).sum() if half else None for half in halves)
        return first, second

    def check(self, values: ValuesByTerm, batch: Batch, student: ForwardTrace) -> None:
        """Check that each loss accepts traced features and trains the student.

        Losses without parameters and buffers are run. Of the others, which a call may change, the
        `check_inputs` is run, if they have it, and the gradient of what they read is checked.

        Raises:
            InputError: with the message of the ValueError of a loss, or if its value is not a
                scalar or gives the student no gradient.
        """
        self.check_gradients(values, student.net, backward=True)
        stateless = [name for name, loss in self.losses.items() if not is_stateful(loss)]
        try:
            for name, loss in self.losses.items():
                check: Any = getattr(loss, "check_inputs", None)
                if check is not None:
                    check(**{key: values[name][key] for key in wiring.forward_inputs(check)})
            with torch.enable_grad():
                parts = self.parts(values, batch, stateless)
        except ValueError as error:
            raise InputError(str(error)) from error
        for name, part in parts.items():
            if not part.requires_grad:
                raise InputError(f"the loss {name} has no gradient with respect to the student.")

    def check_gradients(
        self, values: ValuesByTerm, student: nn.Module, *, backward: bool = False
    ) -> None:
        """Check that what each loss reads has a gradient; see `check_trainable`.

        Raises:
            InputError: if the gradient does not reach the student.
        """
        for name in self.losses:
            inputs = {key: values[name][key] for key in self.reads(name)}
            check_trainable(name, inputs, student, backward=backward)

    def _terms_of(self, number: int) -> list[str]:
        """Return the names of the terms that read a teacher, alone or with the others."""
        return [term.name for term in self._terms if term.teacher in (number, None)]

    def _call(
        self, name: str, function: Callable[..., Tensor], inputs: dict[str, Any], batch: Batch
    ) -> Tensor:
        """Compute a loss of the images that it can use: all, or those with a label."""
        if name in self.need_labels:
            trained = self.losses[name].parameters()
            part = call_for_labelled(function, inputs, batch, trained)
        else:
            part = function(**inputs)
        check_scalar(name, part)
        return part


def add_strong(values: ValuesByTerm, strong: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the features of the second view to the values of each term."""
    for name, features in strong.items():
        values[name] |= {
            f"{key}{wiring.STRONG}": features[key] for key in features.keys() & FEATURES
        }


def loop_values(batch: Batch, progress: float) -> dict[str, Any]:
    """Return the values of `wiring.FROM_LOOP` and `wiring.OPTIONAL` by name, without `targets`."""
    return {
        "labels": batch.labels,
        "index": batch.index,
        "progress": progress,
        "rows_per_rank": batch.rows_per_rank,
    }


def prefixed(side: str, features: Features) -> Features:
    """Return features by the names of the losses' parameters, e.g. "student_logits"."""
    return {f"{side}_{kind}": value for kind, value in features.items()}
