"""MLKD: KD and similarities of images and of classes, at several temperatures, on two views."""

from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.divergence import kl_divergence, rare_share, uncertain_share
from distillers.losses.ops.numerics import at_least_fp32, no_autocast

NUM_STRONG = 3  # temperatures that the public code uses for the strong view


class MLKD(nn.Module):
    """KL divergence, and similarities of images and of classes, at several temperatures.

    "Multi-level Logit Distillation", Jin, Wang and Lin, 2023,
    https://doi.org/10.1109/CVPR52729.2023.02325.

        T^2 KL(P_t || P_s)  +  |P_t P_t' - P_s P_s'|^2 / n  +  |P_t' P_t - P_s' P_s|^2 / k

    summed over T, for a weakly and for a strongly augmented view of each image, where P (n, k) are
    the probabilities at temperature T, and KL is averaged over the images. The cross-entropy is
    taken on both views, too. Published with weight 0.9 and a cross-entropy of 0.1 on CIFAR-100, 0.5
    and 0.5 on ImageNet.

    That sum is `released=False`. The public code, which is behind the published tables, differs
    from it (`released=True`). It multiplies averages by masks, of the images whose teacher is at
    most as confident as the median, and of the classes that are at most as probable as the median,
    so that only the shares u and v of what they select matter, usually 1/2: the weak view's KL and
    similarities of images are scaled by u, its similarities of classes by v. Of the strong view,
    KL alone is used, unscaled, at the first three temperatures; at the others the weak view takes
    its place.

    The loss depends on the batch. In the public code each process uses its own images.

    Args:
        temperatures: the values of T.
        released: whether to follow the public code instead of the sum.
        gather: whether to compare the images of all processes, not only those of each process.
    """

    def __init__(
        self,
        *,
        temperatures: tuple[float, ...] = (4.0, 3.0, 5.0, 2.0, 6.0),
        released: bool = True,
        gather: bool = True,
    ) -> None:
        if not temperatures:
            raise ValueError("temperatures is empty; it must name one at least.")
        for temperature in temperatures:
            require.positive(temperatures=temperature)
        super().__init__()
        self.temperatures = temperatures
        self.released = released
        self.gather = gather

    def forward(
        self,
        student_logits: Tensor,
        student_logits_strong: Tensor,
        teacher_logits: Tensor,
        teacher_logits_strong: Tensor,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from the logits (n, k) of both networks on both views."""

        def everywhere(logits: Tensor) -> Tensor:
            return gathered(at_least_fp32(logits), rows_per_rank, self.gather)

        weak = everywhere(student_logits), everywhere(teacher_logits.detach())
        strong = everywhere(student_logits_strong), everywhere(teacher_logits_strong.detach())
        images, classes = uncertain_share(weak[1]), rare_share(weak[1])
        loss = weak[0].new_zeros(())
        for number, temperature in enumerate(self.temperatures):
            kl, of_images, of_classes = self.terms(*weak, temperature)
            if self.released:
                other = self.terms(*strong, temperature)[0] if number < NUM_STRONG else kl
                loss = loss + images * (kl + of_images) + classes * of_classes + other
            else:
                loss = loss + kl + of_images + of_classes + sum(self.terms(*strong, temperature))
        return loss

    @staticmethod
    def terms(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, ...]:
        """Return the three terms of one temperature, for two sets of logits (n, k)."""
        own, target = ((x / temperature).log_softmax(dim=1) for x in (student, teacher))
        p, q = own.exp(), target.exp()
        with no_autocast(p):
            of_images = (q @ q.T - p @ p.T).square().sum() / len(p)
            of_classes = (q.T @ q - p.T @ p).square().sum() / p.shape[1]
        return temperature**2 * kl_divergence(target, own).mean(), of_images, of_classes
