"""QueueKL: match the similarities with a queue of past embeddings of the teacher."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_rows
from distillers.losses.ops import require
from distillers.losses.ops.memory_bank import similarities, write_fifo
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize


class QueueKL(nn.Module):
    """KL divergence of the similarities of both embeddings with the teacher's past embeddings.

    Distillation of lightly-train, version 1, which has no paper; the loss is that of
    "Relational Representation Distillation", Giakoumoglou and Stathaki, 2024,
    https://arxiv.org/abs/2407.12073, with one temperature and without a projection of the teacher.

        KL(softmax(Q t / T) || softmax(Q s / T)),    s = unit(W h_s + b), t = unit(h_t)

    averaged over the batch. Q is a queue of the last `queue_size` teacher embeddings t, the batch
    included. No labels are used. Published: a weight of 1 without a cross-entropy, T 0.07, a queue
    of a quarter to a half of the data set (8192 above 20,000 images), one view of images mixed with
    a ratio drawn once per batch, and LARS or AdamW.

    The public queue starts with zeros, which count as similarities of 0 until it is full; rows that
    are not written yet are left out here. The public queue is that of each process, and takes the
    first rows of a batch that is larger; here the embeddings of all processes are enqueued, the
    last ones if there are too many. Written from the formulas, not compared with the public code.
    The linear layer and the queue are discarded after training.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        queue_size: rows of Q.
        temperature: T.
    """

    queue: Tensor
    written: Tensor
    pointer: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        queue_size: int = 8192,
        temperature: float = 0.07,
    ) -> None:
        require.positive(queue_size=queue_size, temperature=temperature)
        super().__init__()
        self.temperature = temperature
        self.project = nn.Linear(student_dim, teacher_dim)
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        self.register_buffer("queue", torch.zeros(queue_size, teacher_dim))
        self.register_buffer("written", torch.zeros(queue_size, dtype=torch.bool))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from embeddings (n, d_s) and (n, d_t)."""
        student = l2_normalize(at_least_fp32(self.project(student_pooled)))
        teacher = l2_normalize(at_least_fp32(teacher_pooled.detach()))
        if self.training:
            rows = all_gather_rows(teacher, rows_per_rank)
            write_fifo(self.queue, self.written, self.pointer, rows)
        queue = self.queue.clone()  # may change before the backward
        # also rows that were copied into the buffer
        written = self.written | (queue.square().sum(dim=1) > 0)
        predicted = similarities(student, queue, written, self.temperature).log_softmax(dim=1)
        target = similarities(teacher, queue, written, self.temperature).log_softmax(dim=1)
        return (target.exp() * (target - predicted) * written).sum(dim=1).mean()
