"""RRD: match similarities to a memory of teacher embeddings."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_rows
from distillers.losses.ops import require
from distillers.losses.ops.memory_bank import average_rows, similarities, write_fifo
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize


class Preset(NamedTuple):
    """The options that a preset of RRD sets."""

    student_temperature: float
    teacher_temperature: float
    enqueue: str


PRESETS = {
    "recent": Preset(0.1, 0.02, "before"),
    "equal": Preset(0.07, 0.07, "before"),
    "tables": Preset(0.04, 0.1, "after"),
}


class RRD(nn.Module):
    """Cross-entropy between softened similarities of student and teacher to a memory of embeddings.

    "Relational Representation Distillation", Giakoumoglou and Stathaki, 2024,
    https://arxiv.org/abs/2407.12073.

    Linear layers map the student's and the teacher's embeddings to width `dim`, and the results s
    and t are normalized. With Q a memory of K past teacher embeddings,

        mean over images of the cross-entropy of softmax(Q t / T_t) and softmax(Q s / T_s)

    Published weight: 1. There are two published variants. `preset="recent"`, the default, is the
    present public code: temperatures 0.10 (student) and 0.02 (teacher), and the batch is stored
    before the loss, so that the memory holds each image's own key; no table is known for it. (The
    documentation of that code swaps the two temperatures.) `preset="tables"` belongs to the
    published tables: temperatures 0.04 and 0.10, and the batch is stored after the loss.
    `preset="equal"` has the temperature 0.07 on both sides, as QueueKL, for training without labels
    (weights 0 of cross-entropy and KL divergence); it is no published variant of RRD.

    The teacher's side gets no gradient, so `embed_teacher` remains a random projection. In the
    public code it is nevertheless passed to the optimizer; here it is frozen.

    Corrections of the public code:

    * The memory is initialized with rows of unit length (there, columns are normalized and rows
      have length 0.09).
    * Any batch size is allowed, even one larger than the memory.
    * The memory and the position in it are in the state dict.
    * In a distributed run every process stores the batches of all.
    * If an image occurs twice in a batch (`--aug_repeats`), the queue gets both rows; with
      `memory="momentum"` the image's row is updated with the last occurrence.
    * With `memory="momentum"` the teacher is compared with the bank of teacher embeddings and the
      softmax is taken of the inner products (there, it is compared with the student's bank and the
      exponential is taken twice).

    In evaluation mode nothing is stored.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        dim: output width of the linear layers and width of the memory.
        queue_size: K; for `memory="momentum"` the number of training images.
        student_temperature: T_s.
        teacher_temperature: T_t.
        enqueue: whether to store the batch `"before"` or `"after"` the loss.
        memory: `"fifo"`, a queue of the last K embeddings, or `"momentum"`, one running embedding
            per training image, which requires the `index` of `forward` (`RRDMomentum` passes it).
        momentum: weight of the old row in an update, for `memory="momentum"`.
        empty: what to do with rows that have not been written yet: `"keep"` their random
            directions, as published, or `"mask"` them. The loss is zero if all rows are masked.
        preset: `"recent"`, `"tables"`, `"equal"` or None. The options that it sets must have their
            default value or agree with it.

    Raises:
        ValueError: if an option is unknown, conflicts with the preset, or `index` is missing.
    """

    queue: Tensor
    written: Tensor
    pointer: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        dim: int = 128,
        queue_size: int = 16384,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.02,
        enqueue: str = "before",
        memory: str = "fifo",
        momentum: float = 0.5,
        empty: str = "keep",
        preset: str | None = None,
    ) -> None:
        require.positive(
            dim=dim,
            queue_size=queue_size,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        require.fraction(momentum=momentum)
        require.choice(("before", "after"), enqueue=enqueue)
        require.choice(("fifo", "momentum"), memory=memory)
        require.choice(("keep", "mask"), empty=empty)
        require.choice((None, *PRESETS), preset=preset)
        super().__init__()
        given = Preset(student_temperature, teacher_temperature, enqueue)
        chosen = given if preset is None else PRESETS[preset]
        options = zip(Preset._fields, given, PRESETS["recent"], chosen, strict=True)
        for name, own, default, value in options:
            if own not in (default, value):
                raise ValueError(
                    f"preset {preset!r} means {name}={value!r}, not {own!r}; "
                    "leave out the preset or the option."
                )
        self.student_temperature, self.teacher_temperature, self.enqueue = chosen
        self.memory = memory
        self.momentum = momentum
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim).requires_grad_(False)
        self.register_buffer("queue", l2_normalize(torch.randn(queue_size, dim)))
        self.register_buffer("written", torch.full((queue_size,), empty == "keep"))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        student_pooled: Tensor,
        teacher_pooled: Tensor,
        index: Tensor | None = None,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss.

        Args:
            student_pooled: (n, d_s) embeddings.
            teacher_pooled: (n, d_t) embeddings.
            index: (n,) indices into the training set, for `memory="momentum"`.
            rows_per_rank: images of each process, if they differ.
        """
        student = l2_normalize(at_least_fp32(self.embed_student(student_pooled)))
        teacher = l2_normalize(at_least_fp32(self.embed_teacher(teacher_pooled.detach())))
        if self.enqueue == "before":
            self.store(teacher, index, rows_per_rank)
        # autograd keeps the operands of the product, and the memory may change before the backward
        rows, written = self.queue.clone(), self.written.clone()
        if self.enqueue == "after":
            self.store(teacher, index, rows_per_rank)
        of_student = similarities(student, rows, written, self.student_temperature)
        of_teacher = similarities(teacher, rows, written, self.teacher_temperature)
        target = of_teacher.softmax(dim=1) * written
        return -(target * of_student.log_softmax(dim=1)).sum(dim=1).mean()

    @torch.no_grad()
    def store(
        self,
        teacher: Tensor,
        index: Tensor | None = None,
        rows_per_rank: tuple[int, ...] = (),
    ) -> None:
        """Write the teacher embeddings (n, dim) of all processes to memory, in training mode."""
        if not self.training:
            return
        teacher = all_gather_rows(teacher, rows_per_rank)
        if self.memory == "momentum":
            if index is None:
                raise ValueError(
                    "memory='momentum' needs index, the indices into the training set; use "
                    "RRDMomentum (--memory_type momentum)."
                )
            slots = all_gather_rows(index, rows_per_rank)
            average_rows(self.queue, slots, teacher, self.momentum)
            self.written.index_fill_(0, slots, True)
        else:
            write_fifo(self.queue, self.written, self.pointer, teacher)
