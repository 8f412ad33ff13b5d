"""Drop teachers image by image, so that no teacher is neglected."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillers.distillation.terms import Term
from distillers.distributed.collectives import all_gather_stack, total_rows
from distillers.errors import InputError
from distillers.losses import wiring

KEEP_PROBABILITY = 0.5
BITS = 24  # of a draw, all of which float32 holds
MODULUS = 2**31


class TeacherDropping(nn.Module):
    """Weigh the losses of several teachers for each image, as UNIC does.

    "UNIC: Universal Classification Models via Multi-teacher Distillation", Sariyildiz,
    Weinzaepfel, Lucas, Larlus and Kalantidis, 2024, https://arxiv.org/abs/2408.05088, section 3.2.
    For each image the teacher with the largest loss always counts, every other with probability
    1/2. The loss of a teacher is the mean over the images for which it counts.

    What is drawn is a function of the image's index, the teacher and the number of steps so far,
    which is in the state dict: N processes draw what one does, and a resumed run continues with the
    same numbers. In evaluation mode every teacher counts.
    """

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(
        self, losses: Sequence[Tensor], index: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> list[Tensor]:
        """Return the loss of each teacher, a scalar.

        Args:
            losses: of each teacher, (n,), one number per image.
            index: (n,) rows of the images in the training set.
            rows_per_rank: images of each process, if they differ.
        """
        if not self.training:
            return [loss.mean() for loss in losses]
        stacked = torch.stack(list(losses))
        kept = self.counts(stacked.detach(), index).to(stacked.dtype)
        self.steps += 1
        total = total_rows(index, rows_per_rank)
        number = all_gather_stack(kept.sum(1)).sum(0).clamp(min=1)
        return list((stacked * kept).mean(1) * (total / number))

    def counts(self, losses: Tensor, index: Tensor) -> Tensor:
        """Return for which images each teacher counts, (teachers, n), in the present step."""
        worst = losses.argmax(0)
        numbers = torch.arange(len(losses), device=losses.device)[:, None]
        drawn = draw(index[None] * len(losses) + numbers, self.steps)
        return (drawn < KEEP_PROBABILITY) | (numbers == worst)


def groups_of(terms: Sequence[Term]) -> dict[str, list[str]]:
    """Return the names of the terms of each loss that is built once for each teacher.

    Raises:
        InputError: if there is none, or one has no loss per image.
    """
    groups: dict[str, list[str]] = {}
    for term in terms:
        if term.teacher is not None:
            groups.setdefault(term.name.rpartition("_")[0], []).append(term.name)
            if not hasattr(term.loss, "per_image"):
                able = [name for name, cls in wiring.losses().items() if hasattr(cls, "per_image")]
                raise InputError(
                    f"teachers cannot be dropped for {type(term.loss).__name__}, which has no loss "
                    f"of each image (`per_image`); these have: {', '.join(sorted(able))}."
                )
    if not groups:
        raise InputError(
            "teachers can be dropped where each has a separate term: give several, and a loss on "
            'embeddings or maps, or combine="each" (--combine_teachers each).'
        )
    return groups


def draw(number: Tensor, step: Tensor) -> Tensor:
    """Return pseudo-random numbers in [0, 1), a function of two non-negative int64 alone."""
    mixed = (number * 747796405 + step * 1013904223 + 12345) % MODULUS
    for factor, shift in ((73244475, 16), (73244475, 15), (1664525, 16)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) % MODULUS
    return (mixed >> (31 - BITS)).float() / 2**BITS
