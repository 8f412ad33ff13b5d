"""VkD: match the teacher's normalized embedding through an orthogonal projection."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.reflections import Reflections


class VkD(nn.Module):
    """Smooth L1 distance of orthogonally projected embeddings from the teacher's normalized ones.

    "VkD: Improving Knowledge Distillation using Orthogonal Projections", Miles, Elezi and Deng,
    2024, https://arxiv.org/abs/2403.06213.

        mean over images and dimensions of smooth_l1(P s - LN(t))

    with s, t the embeddings, LN a layer normalization without affine parameters, and P a learned
    matrix without bias whose columns are orthonormal (its rows, if the student is wider than the
    teacher). Only the teacher is normalized. Published weight: 1, with a cross-entropy of 1 and a
    KL divergence at temperature 1 of weight 1, for DeiT students on ImageNet, in which the
    divergence is that of DeiT's distillation head and s the mean of the patch tokens. P is
    discarded after training.

    P is kept orthogonal by PyTorch's default parametrization: the exponential of a skew-symmetric
    matrix if it is square, else a product of Householder reflections, which is computed faster here
    (`distillers.losses.ops.reflections`).

    s is the input of the student's classifier here. The public code also decays the parameter
    behind P. It is exempt here: PyTorch takes the signs of the reflections by rounding towards
    zero, so that any decay turns P into zeros. Whitening instead of LN, which the paper uses for
    image generation, is not offered.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.

    Attributes:
        no_weight_decay: names of the parameters that are exempt from weight decay.
    """

    no_weight_decay: tuple[str, ...] = ("project.parametrizations.weight.original",)

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(student_dim, teacher_dim, bias=False)
        if student_dim == teacher_dim:
            nn.utils.parametrizations.orthogonal(self.project)
        else:
            nn.utils.parametrize.register_parametrization(self.project, "weight", Reflections())

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """Compute the loss from embeddings (n, d_s) and (n, d_t)."""
        student = at_least_fp32(self.project(student_pooled))
        teacher = at_least_fp32(teacher_pooled.detach())
        return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[1:]))
