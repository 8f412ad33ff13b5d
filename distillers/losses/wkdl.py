"""WKDL: transport cost between the probabilities of the other classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, centered, l2_normalize, no_autocast
from distillers.losses.ops.reused_classifier import single_linear
from distillers.losses.ops.schedule import half_cosine


class WKDL(nn.Module):
    """Wasserstein distance of the probabilities of the other classes, and the label's term of NKD.

    "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", Lv, Yang
    and Li, 2024, https://arxiv.org/abs/2412.08139.

        -p_t(label) log p_s(label) + gamma W

    averaged over the batch. W is the cost of transport between the softmax outputs of both networks
    at temperature T over the classes without the label. Moving probability from one class to
    another costs 1 - exp(-sharpen distance), plus 1e-8. The plan is that of `iterations` steps of
    Sinkhorn with regularization `blur`, which the gradient passes through.

    The distance of two classes, in the buffer `cost`, is one minus the cosine of their rows in the
    teacher's classifier. The paper's tables use one minus the linear CKA of their features, which
    `cka_cost` computes from training images: `loss.cost.copy_(cka_cost(features))`.

    gamma decays by half a cosine from `decay_from` to the end of the training. Published with a
    cross-entropy of 1: gamma 600 and T 8 for resnet32x4 to resnet8x4, 200 and 6 for wrn_40_2 to
    ShuffleNetV1; on ImageNet gamma 30, T 2 and a decay from the start for ResNet34 to ResNet18; 25,
    2, the same decay and `sharpen` 2 for ResNet50 to MobileNetV1.

    The public code cuts the label out of the cost matrix of each image, which takes n (k - 1)^2
    numbers, 1 GB for 1000 classes and a batch of 256. Here the label has probability 0 in a plan
    over all classes, which is the same plan and takes n k numbers for each step, k^2 for the cost.
    It is computed in float32 or higher.

    Args:
        teacher_head: the teacher's classifier, one linear layer.
        temperature: T.
        gamma: weight of the transport.
        blur: regularization of the plan.
        iterations: number of Sinkhorn steps.
        sharpen: factor of the distances in the exponent.
        decay_from: fraction of the training after which gamma decays.
    """

    cost: Tensor

    def __init__(
        self,
        teacher_head: nn.Module,
        *,
        temperature: float = 8.0,
        gamma: float = 600.0,
        blur: float = 0.05,
        iterations: int = 10,
        sharpen: float = 1.0,
        decay_from: float = 150 / 240,
    ) -> None:
        require.positive(temperature=temperature, blur=blur, sharpen=sharpen, iterations=iterations)
        require.non_negative(gamma=gamma)
        require.fraction(decay_from=decay_from)
        super().__init__()
        self.temperature = temperature
        self.gamma = gamma
        self.blur = blur
        self.iterations = iterations
        self.sharpen = sharpen
        self.decay_from = decay_from
        weight = single_linear(teacher_head).weight.detach()
        rows = l2_normalize(weight.double())  # in float32 a class would have a distance to itself
        self.register_buffer("cost", (1 - rows @ rows.T).to(weight.dtype))

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, progress: float
    ) -> Tensor:
        """Compute the loss from two (n, k), labels (n,) and the fraction of training done."""
        student, teacher = at_least_fp32(student_logits), at_least_fp32(teacher_logits.detach())
        at_label = teacher.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        of_label = at_label * F.cross_entropy(student, labels, reduction="none")
        label = F.one_hot(labels, student.shape[1]).bool()
        with no_autocast(student):
            moved = self.transport(
                (student / self.temperature).masked_fill(label, -torch.inf).softmax(dim=1),
                (teacher / self.temperature).masked_fill(label, -torch.inf).softmax(dim=1),
                label,
            )
        weight = self.gamma * half_cosine(progress, self.decay_from)
        return (of_label + weight * moved).mean()

    def transport(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """Return the cost (n,) of moving between two distributions (n, k), 0 at the labels."""
        cost = (1 - torch.exp(-self.sharpen * self.cost.to(student.dtype))).relu() + 1e-8
        kernel = torch.exp(-cost / self.blur)
        left = (~label).to(student.dtype) / max(student.shape[1] - 1, 1)
        right = left
        for _ in range(self.iterations):
            right = teacher / (left @ kernel + 1e-8)
            left = student / (right @ kernel.T + 1e-8)
        return (left * (right @ (kernel * cost).T)).sum(dim=1)


def cka_cost(features: Tensor) -> Tensor:
    """Return one minus the linear CKA (k, k) between classes with m samples each (k, m, d).

    The i-th sample of a class is paired with the i-th of the other, so it depends on their order.
    """
    deviations = centered(at_least_fp32(features), dim=1)
    grams = l2_normalize((deviations @ deviations.mT).flatten(1))
    return 1 - grams @ grams.T
