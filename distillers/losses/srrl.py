"""SRRL: regress the teacher's embedding, and the logits that its classifier makes of it."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.numerics import at_least_fp32


class SRRL(nn.Module):
    """Mean squared errors of embedding and logits, the latter from the teacher's frozen classifier.

    "Knowledge Distillation via Softmax Regression Representation Learning", Yang, Martinez, Bulat
    and Tzimiropoulos, 2021, https://openreview.net/forum?id=ZzwDy_wiWv. This is the form of the
    SimKD paper's tables, https://arxiv.org/abs/2203.14001.

        mean (phi(h_s) - h_t)^2 + mean (W phi(h_s) - z_t)^2

    where h are embeddings, z_t the teacher's logits, W the teacher's frozen classifier and phi a
    connector to the teacher's width, which is trained jointly and discarded. Published weight: 1,
    with cross-entropy and KD of weight 1. phi is a linear layer without bias, batch normalization
    and ReLU on the pooled embedding; the authors' own code has the same layers before the pooling.

    In the public code gradients accumulate in the teacher's classifier. Here `teacher_head` is
    frozen and always in evaluation mode, and the gradient passes through it.

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
        """Compute the loss from embeddings (n, d_s), (n, d_t) and the teacher's logits (n, k)."""
        connected = self.connector(student_pooled)
        logits = self.teacher_head(connected)
        return F.mse_loss(
            at_least_fp32(connected), at_least_fp32(teacher_pooled.detach())
        ) + F.mse_loss(at_least_fp32(logits), at_least_fp32(teacher_logits.detach()))

    def train(self, mode: bool = True) -> "SRRL":
        """Set the mode of the connector; the teacher's classifier stays in evaluation mode."""
        super().train(mode)
        self.teacher_head.eval()
        return self
