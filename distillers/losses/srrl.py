"""SRRL: the teacher's own classifier reads the student's embedding."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32


class SRRL(nn.Module):
    """Knowledge Distillation via Softmax Regression Representation Learning.

    Yang, Martinez, Bulat and Tzimiropoulos, 2021, https://openreview.net/forum?id=ZzwDy_wiWv. The
    form here is that of the SimKD paper's tables, https://arxiv.org/abs/2203.14001.

    A connector phi, learned along and discarded, brings the student's embedding to the teacher's
    width. It shall be the teacher's embedding, and the teacher's frozen classifier W shall make the
    teacher's logits of it:

        mean (phi(h_s) - h_t)^2 + mean (W phi(h_s) - z_t)^2

    Published weight: 1, beside cross-entropy and KD of weight 1. phi is a linear layer without
    bias, batch normalisation and ReLU on the pooled embedding; the authors' own code has the same
    layers before the pooling.

    In public code gradient piles up in the teacher's classifier; here `teacher_head` is frozen and
    in evaluation mode always, and gradient passes through it.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        teacher_head: the teacher's classifier, (n, teacher_dim) to (n, k); it is frozen.
    """

    def __init__(self, student_dim: int, teacher_dim: int, teacher_head: nn.Module) -> None:
        super().__init__()
        self.connector = nn.Sequential(
            nn.Linear(student_dim, teacher_dim, bias=False), nn.BatchNorm1d(teacher_dim), nn.ReLU()
        )
        self.teacher_head = teacher_head.requires_grad_(False).eval()

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, teacher_logits: Tensor
    ) -> Tensor:
        """The loss from student_pooled (n, d_s), teacher_pooled (n, d_t), teacher_logits (n, k)."""
        connected = self.connector(student_pooled)
        logits = self.teacher_head(connected)
        return F.mse_loss(
            at_least_fp32(connected), at_least_fp32(teacher_pooled.detach())
        ) + F.mse_loss(at_least_fp32(logits), at_least_fp32(teacher_logits.detach()))

    def train(self, mode: bool = True) -> "SRRL":
        """Training mode for the connector; the teacher's classifier never leaves evaluation."""
        super().train(mode)
        self.teacher_head.eval()
        return self
