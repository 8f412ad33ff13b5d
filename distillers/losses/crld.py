"""CRLD: KD within and across two views of each image, where the teacher is sure."""

from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import confidence, softened_divergence


class CRLD(nn.Module):
    """KL divergences between the probabilities of two views, for the images of a sure teacher.

    "Cross-View Consistency Regularisation for Knowledge Distillation", Zhang et al., 2024,
    https://arxiv.org/abs/2412.16493.

        a m_w (d(w, w) + d(s, s)) + c m_s (d(s, w) + d(w, s)),    d(i, j) = T^2 KL(t_j || s_i)

    averaged over all images, where s_i and t_j are the probabilities of student and teacher at
    temperature T on the weakly (w) and the strongly (s) augmented view. m_w is 1 where the largest
    probability of the teacher, at temperature 1, on the weak view is `weak_threshold` or more, and
    m_s where that on the strong view is `strong_threshold` or more, else 0. The cross-entropy is
    taken on both views, with weight 1. Published with T 4, c 0.5, and a from 0.5 to 2 by pair on
    CIFAR-100; on ImageNet with T 1 and a cross-entropy of 2.

    Early in the training on hard data few images pass the first threshold.

    Args:
        temperature: T.
        within: a, weight of the divergences within a view.
        across: c, weight of the divergences across the views.
        weak_threshold: least confidence on the weak view.
        strong_threshold: least confidence on the strong view.
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        within: float = 2.0,
        across: float = 0.5,
        weak_threshold: float = 0.9,
        strong_threshold: float = 0.2,
    ) -> None:
        require.positive(temperature=temperature)
        require.non_negative(within=within, across=across)
        require.fraction(weak_threshold=weak_threshold, strong_threshold=strong_threshold)
        super().__init__()
        self.temperature = temperature
        self.within = within
        self.across = across
        self.weak_threshold = weak_threshold
        self.strong_threshold = strong_threshold

    def forward(
        self,
        student_logits: Tensor,
        student_logits_strong: Tensor,
        teacher_logits: Tensor,
        teacher_logits_strong: Tensor,
    ) -> Tensor:
        """Compute the loss from the logits (n, k) of both networks on both views."""

        def divergence(student: Tensor, teacher: Tensor) -> Tensor:
            return self.temperature**2 * softened_divergence(student, teacher, self.temperature)

        within = divergence(student_logits, teacher_logits)
        within = within + divergence(student_logits_strong, teacher_logits_strong)
        across = divergence(student_logits_strong, teacher_logits)
        across = across + divergence(student_logits, teacher_logits_strong)
        is_sure = confidence(teacher_logits) >= self.weak_threshold
        is_sure_strong = confidence(teacher_logits_strong) >= self.strong_threshold
        return (self.within * is_sure * within + self.across * is_sure_strong * across).mean()
