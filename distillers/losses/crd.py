"""CRD: a student embedding finds its image's teacher embedding among thousands of others."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_rows, all_gather_stack, total_rows
from distillers.losses.ops.memory_bank import row_products, weighted_row_sum
from distillers.losses.ops.negative_sampling import NegativeSampler
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.rows import write_rows
from distillers.losses.ops.validation import require_fraction, require_positive


class CRD(nn.Module):
    """Contrastive Representation Distillation.

    Tian, Krishnan and Isola, 2019, https://arxiv.org/abs/1910.10699.

    Both embeddings pass a learned linear map and are brought to length one. A bank holds a running
    embedding of each of the N training images for either network. Student embeddings v are tried
    against the teacher's bank: the row of the same image (positive) against K rows of images of
    other classes (negatives), by noise-contrastive estimation,

        (1 / n) sum over images of -log p_0 / (p_0 + c) - sum over k of log (K / N) / (p_k + c)

    with p = exp(<v, row> / temperature) / Z and c = K / N + 1e-7; and teacher embeddings against
    the student's bank. Z = N times the mean of exp over the first batch, one for each bank, then
    fixed. The banks' rows move after the loss. Published weight: 0.8. Maps and banks are discarded.

    The terms are written as softplus of log p - log c, so that none overflows, and Z has no
    autograd history. Negatives are drawn on the device, by a hash of seed, step and image, so that
    they are the same in however many processes, with replacement (public code draws without where
    a class leaves enough others). The gradient for v is computed along with
    the value, so that nothing of size n K is kept until the backward pass, and the banks may move
    before it; second derivatives do not exist. Scores come from one product with the whole bank
    where that moves less memory than gathering K rows an image. If an image is in a batch twice,
    its row follows the last one. In distributed training every process moves its banks by the
    batches of all, so that they stay the same; public code moves each by its own batch only. In
    evaluation mode nothing moves.

    A Z fixed by one batch of an untrained student is the part of the method that the authors of
    similar banks advise against; `partition_momentum=0.99` lets it follow (no published table).

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        train_labels: (N,) labels of the training set.
        dim: width that both are brought to.
        negatives: K.
        temperature: of the products.
        momentum: share of a bank's row that stays when its image is seen again.
        mode: `"exact"`, the positive is the image itself; `"relax"`, any image of its class.
            Negatives are of other classes in both.
        partition_momentum: share of Z that stays at each step; Z is fixed where it is None.

    Raises:
        ValueError: for another mode, a partition_momentum outside (0, 1), or a training set of one
            class.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_partition: Tensor
    estimated: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        train_labels: Tensor,
        *,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        mode: str = "exact",
        partition_momentum: float | None = None,
    ) -> None:
        require_positive(dim=dim, negatives=negatives, temperature=temperature)
        require_fraction(momentum=momentum)
        super().__init__()
        if mode not in ("exact", "relax"):
            raise ValueError(f"mode is {mode!r}; it may be 'exact' or 'relax'.")
        if partition_momentum is not None and not 0 < partition_momentum < 1:
            raise ValueError(f"partition_momentum is {partition_momentum}; it may be in (0, 1).")
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.mode = mode
        self.partition_momentum = partition_momentum
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)
        self.sampler = NegativeSampler(train_labels)
        bound = math.sqrt(3 / dim)
        for who in ("student", "teacher"):
            rows = torch.empty(len(train_labels), dim).uniform_(-bound, bound)
            self.register_buffer(f"{who}_bank", rows)
        # log Z of student and teacher embeddings, zeros before the first step
        self.register_buffer("log_partition", torch.zeros(2))
        self.register_buffer("estimated", torch.zeros((), dtype=torch.bool))

    def forward(
        self,
        student_pooled: Tensor,
        teacher_pooled: Tensor,
        labels: Tensor,
        index: Tensor,
        negative_index: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            student_pooled: (n, d_s).
            teacher_pooled: (n, d_t).
            labels: (n,) classes.
            index: (n,) rows in the training set.
            negative_index: (n, K) rows in the training set to use as negatives; drawn where it is
                left out.
        """
        student = l2_normalize(at_least_fp32(self.embed_student(student_pooled)))
        teacher = l2_normalize(at_least_fp32(self.embed_teacher(teacher_pooled.detach())))
        if negative_index is None:
            negative_index = self.sampler.sample_other_classes(labels, index, self.negatives)
        positive = index if self.mode == "exact" else self.sampler.sample_same_class(labels, index)
        rows = torch.cat((positive[:, None], negative_index), dim=1)
        loss = self.nce_loss(self.teacher_bank, student, rows, 0) + self.nce_loss(
            self.student_bank, teacher, rows, 1
        )
        if self.training:
            seen = all_gather_rows(index)
            self.update_bank(self.student_bank, all_gather_rows(student), seen)
            self.update_bank(self.teacher_bank, all_gather_rows(teacher), seen)
            self.estimated.fill_(True)
            self.sampler.advance()
        return loss

    def nce_loss(self, bank: Tensor, anchors: Tensor, rows: Tensor, which: int) -> Tensor:
        """Contrast anchors (n, dim) with rows (n, 1 + K) of a bank, the positive first."""
        n, num_negatives = len(rows), rows.shape[1] - 1
        noise = num_negatives / len(bank)
        with torch.no_grad(), no_autocast(bank):
            found = anchors.detach() / self.temperature
            logits = row_products(found, bank, rows)
            shift = self.partition(logits, which) + math.log(noise + 1e-7)
            logits.sub_(shift)
            # -log p/(p+c) = softplus(x) - x and log (p+c)/c = softplus(x), for x = log p - log c
            value = (softplus(logits).sum() - logits[:, 0].sum()) / n
            value = value + num_negatives * math.log1p(1e-7 / noise)
            if not anchors.requires_grad:
                return value
            slopes = logits.sigmoid_()
            slopes[:, 0] -= 1
            gradient = weighted_row_sum(slopes, bank, rows) / (n * self.temperature)
        return WithGradient.apply(value, anchors, gradient)

    def partition(self, scores: Tensor, which: int) -> Tensor:
        """Log Z, from scores (n, 1 + K) where it is due."""
        old = self.log_partition[which]
        sums = all_gather_stack(scores.flatten().logsumexp(dim=0))
        share = len(self.student_bank) / (total_rows(scores) * scores.shape[1])
        seen = sums.logsumexp(dim=0) + math.log(share)
        later = old
        if self.partition_momentum is not None:
            kept = self.partition_momentum
            later = torch.logaddexp(old + math.log(kept), seen + math.log(1 - kept))
        new = torch.where(self.estimated, later, seen)
        if self.training:
            self.log_partition[which] = new
        return new

    @torch.no_grad()
    def update_bank(self, bank: Tensor, anchors: Tensor, index: Tensor) -> None:
        """Let the rows of the bank follow anchors (n, dim)."""
        new = l2_normalize(self.momentum * bank[index] + (1 - self.momentum) * anchors)
        write_rows(bank, index, new)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x); four times as fast as torch's on a CPU, where log1p is slow."""
    return x.clamp(min=0) - x.abs().sigmoid_().log_()


class WithGradient(torch.autograd.Function):
    """A value whose gradient for `at` is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG004
        """The value, as it is."""
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor, None]:
        """The known gradient, scaled by what comes from above."""
        (gradient,) = ctx.saved_tensors
        return None, grads[0] * gradient, None
