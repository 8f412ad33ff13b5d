"""CRD: contrast each embedding with a memory bank of the other network's embeddings."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_rows, all_gather_stack, total_rows
from distillers.losses.ops import require
from distillers.losses.ops.memory_bank import average_rows, row_products, weighted_row_sum
from distillers.losses.ops.negative_sampling import NegativeSampler
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class CRD(nn.Module):
    """Noise-contrastive loss between each network's embeddings and a memory bank of the other's.

    "Contrastive Representation Distillation", Tian, Krishnan and Isola, 2019,
    https://arxiv.org/abs/1910.10699.

    Linear layers map both embeddings to width `dim`, and the results are normalized. Two memory
    banks hold a running embedding of each of the N training images, one bank per network. A student
    embedding v is compared with 1 + K rows of the teacher's bank: the row of the same image
    (positive, k = 0) and K rows of images of other classes (negatives). The loss is that of
    noise-contrastive estimation,

        mean over images of -log(p_0 / (p_0 + c)) - sum over k >= 1 of log((K / N) / (p_k + c))

    with p_k = exp(<v, row_k> / temperature) / Z and c = K / N + 1e-7. The same loss of the teacher
    embeddings and the student's bank is added. Each bank has its own constant Z: N times the mean
    of exp(<v, row> / temperature) over the first batch. The rows of the batch are updated after the
    loss. Published weight: 0.8. Linear layers and banks are discarded after training.

    Differences from the public code, and implementation notes:

    * The terms are computed as softplus of log p - log c, which cannot overflow, and Z is computed
      without gradient.
    * Negatives are drawn on the device from a hash of seed, step and image, so that they do not
      depend on the number of processes, and with replacement. The public code draws without
      replacement where there are enough images of other classes.
    * The gradient with respect to v is computed in the forward pass. So no tensor of n K elements
      is kept for the backward pass and the banks may change before it. Second derivatives are not
      supported.
    * The scores are read from a product with the whole bank if that moves less memory than
      gathering K rows per image.
    * If an image occurs twice in a batch (`--aug_repeats`), its row is updated with the last
      occurrence, and both occurrences have the same negatives.
    * In distributed training every process updates its banks with the batches of all processes, so
      that the banks stay equal. In the public code each process uses its own batch only.
    * In evaluation mode nothing is updated.

    A Z that is fixed by one batch of an untrained student is the part of the method that authors of
    similar memory banks advise against; `partition_momentum=0.99` makes it a moving average, for
    which there is no published table.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        train_labels: (N,) labels of the training set.
        dim: output width of the linear layers and width of the banks.
        negatives: K.
        temperature: divisor of the inner products.
        momentum: momentum of the bank rows: the weight of the old row in an update.
        mode: which row is the positive: `"exact"`, that of the image itself, or `"relax"`, that of
            a random image of the same class. Negatives are of other classes in both.
        partition_momentum: momentum of Z; None keeps Z fixed.

    Raises:
        ValueError: if `mode` is unknown, `partition_momentum` is not in (0, 1), or the training set
            has only one class.
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
        require.positive(dim=dim, negatives=negatives, temperature=temperature)
        require.fraction(momentum=momentum)
        require.choice(("exact", "relax"), mode=mode)
        super().__init__()
        if partition_momentum is not None and not 0 < partition_momentum < 1:
            raise ValueError(f"partition_momentum is {partition_momentum}; it must be in (0, 1).")
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
        # log Z of student and teacher anchors, zeros before the first step
        self.register_buffer("log_partition", torch.zeros(2))
        self.register_buffer("estimated", torch.zeros((), dtype=torch.bool))

    def forward(
        self,
        student_pooled: Tensor,
        teacher_pooled: Tensor,
        labels: Tensor,
        index: Tensor,
        negative_index: Tensor | None = None,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss.

        Args:
            student_pooled: (n, d_s) embeddings.
            teacher_pooled: (n, d_t) embeddings.
            labels: (n,) classes.
            index: (n,) indices into the training set.
            negative_index: (n, K) indices of the negatives in the training set; None draws them.
            rows_per_rank: images of each process, if they differ.
        """
        student = l2_normalize(at_least_fp32(self.embed_student(student_pooled)))
        teacher = l2_normalize(at_least_fp32(self.embed_teacher(teacher_pooled.detach())))
        if negative_index is None:
            negative_index = self.sampler.sample_other_classes(labels, index, self.negatives)
        positive = index if self.mode == "exact" else self.sampler.sample_same_class(labels, index)
        rows = torch.cat((positive[:, None], negative_index), dim=1)
        num_rows = total_rows(rows, rows_per_rank)
        loss = self.nce_loss(self.teacher_bank, student, rows, 0, num_rows)
        loss = loss + self.nce_loss(self.student_bank, teacher, rows, 1, num_rows)
        if self.training:
            seen = all_gather_rows(index, rows_per_rank)
            for bank, anchors in ((self.student_bank, student), (self.teacher_bank, teacher)):
                new = all_gather_rows(anchors, rows_per_rank)
                average_rows(bank, seen, new, self.momentum)
            self.estimated.fill_(True)
            self.sampler.advance()
        return loss

    def nce_loss(
        self, bank: Tensor, anchors: Tensor, rows: Tensor, which: int, num_rows: int
    ) -> Tensor:
        """Compute the noise-contrastive loss of anchors (n, dim) and one bank.

        Args:
            bank: (N, dim) embeddings of the other network.
            anchors: (n, dim) embeddings of unit length.
            rows: (n, 1 + K) indices into the bank, the positive first.
            which: index of the bank's constant in `log_partition`.
            num_rows: anchors of all processes.
        """
        n, num_negatives = max(len(rows), 1), rows.shape[1] - 1
        noise = num_negatives / self.sampler.num_images
        with torch.no_grad(), no_autocast(bank):
            found = anchors.detach() / self.temperature
            logits = row_products(found, bank, rows)
            shift = self.partition(logits, which, num_rows) + math.log(noise + 1e-7)
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

    def partition(self, scores: Tensor, which: int, num_rows: int) -> Tensor:
        """Return log Z, estimated or updated from scores (n, 1 + K) where needed.

        `num_rows` counts the rows of all processes.
        """
        old = self.log_partition[which]
        sums = all_gather_stack(scores.flatten().logsumexp(dim=0))
        share = self.sampler.num_images / (num_rows * scores.shape[1])
        seen = sums.logsumexp(dim=0) + math.log(share)
        later = old
        if self.partition_momentum is not None:
            kept = self.partition_momentum
            later = torch.logaddexp(old + math.log(kept), seen + math.log(1 - kept))
        new = torch.where(self.estimated, later, seen)
        if self.training:
            self.log_partition[which] = new
        return new


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)); on a CPU four times as fast as PyTorch's, in which log1p is slow."""
    return x.clamp(min=0) - x.abs().sigmoid_().log_()


class WithGradient(torch.autograd.Function):
    """A value whose gradient with respect to `at` has already been computed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG004
        """Return a copy of the value."""
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor, None]:
        """Return the stored gradient, scaled by the incoming one."""
        (gradient,) = ctx.saved_tensors
        return None, grads[0] * gradient, None
