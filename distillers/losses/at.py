"""AT: where in the image the student is active follows where the teacher is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.stages import check_stages, same_size
from distillers.losses.ops.validation import require_positive


class AT(nn.Module):
    """Paying More Attention to Attention.

    Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1612.03928.

    A stage's attention is the power of its activations, averaged over the channels, as a vector of
    length one over the places of the map:

        sum over stages of mean over places of (A(S) / |A(S)| - A(T) / |A(T)|)^2

    where A(F) = mean over channels of |F|^p. The larger of two maps is averaged down to the smaller
    one before. Published weight: 1000. No parameters.

    The paper writes the distance without the square; its authors' code, every public table and this
    class use the squared mean. The mean makes a stage's weight proportional to 1 / (h w). With the
    published weight MobileNetV2 from vgg13 ends below the student that learns alone: so it does in
    the published table.

    Args:
        power: p.
    """

    def __init__(self, *, power: int = 2) -> None:
        require_positive(power=power)
        super().__init__()
        self.power = power

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from one (n, c, h, w) a stage of each network."""
        check_stages("AT", student_maps, teacher_maps)
        losses = []
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            of_student, of_teacher = same_size(
                at_least_fp32(student), at_least_fp32(teacher.detach())
            )
            losses.append(F.mse_loss(self.attention(of_student), self.attention(of_teacher)))
        return torch.stack(losses).sum()

    def attention(self, maps: Tensor) -> Tensor:
        """(n, h w) of length one from (n, c, h, w)."""
        powers = maps.square() if self.power == 2 else maps.abs().pow(self.power)
        return l2_normalize(powers.mean(dim=1).flatten(1))
