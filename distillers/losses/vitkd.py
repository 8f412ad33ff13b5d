"""ViTKD: mimic the tokens of the first transformer blocks, and generate those of the last."""

import math

import torch
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.masking import generator, row_draws
from distillers.losses.ops.negative_sampling import MASK
from distillers.losses.ops.numerics import at_least_fp32


class ViTKD(nn.Module):
    """Squared errors of the first two blocks' tokens, and of generated tokens of the last block.

    "ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation", Yang, Li, Zeng, Li, Yuan
    and Li, 2022, https://arxiv.org/abs/2209.02432.

        a sum over blocks 1, 2 of |A s - t|^2  +  b / r sum over masked tokens of |G(x) - t|^2

    with the sums over the patch tokens and their width, averaged over the batch. A is a linear
    layer for each block, left out if the widths are equal. x are the last tokens, after the final
    normalization and another A, of which the fraction r, drawn for each image, is replaced by one
    learned token; G are two 3x3 convolutions with a ReLU between over the grid of tokens. Published
    weight: 1, for DeiT students on ImageNet. A, G and the token are discarded after training.

    Student and teacher must have equally many tokens, in a square grid. The masked tokens are those
    with the largest noise, which is drawn on the device from a hash of seed, step, row of the batch
    and token, so that it does not depend on the number of processes.

    Args:
        student_dim: width of the student's tokens.
        teacher_dim: width of the teacher's tokens.
        mimic: a.
        generate: b.
        mask_ratio: r.

    Attributes:
        teacher_blocks: indices of the blocks that are read.
    """

    teacher_blocks = (0, 1, -1)
    seed: Tensor
    step: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        mimic: float = 3e-5,
        generate: float = 3e-6,
        mask_ratio: float = 0.5,
    ) -> None:
        require.non_negative(mimic=mimic, generate=generate)
        require.positive(mask_ratio=mask_ratio)
        require.fraction(mask_ratio=mask_ratio)
        super().__init__()
        self.mimic = mimic
        self.generate = generate
        self.mask_ratio = mask_ratio
        self.dims = student_dim, teacher_dim
        is_same = student_dim == teacher_dim
        self.align = nn.ModuleList(
            nn.Identity() if is_same else nn.Linear(student_dim, teacher_dim) for _ in range(3)
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, teacher_dim))
        self.generation = generator(teacher_dim)
        self.register_buffer("seed", torch.randint(MASK, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        student_tokens: list[Tensor],
        teacher_tokens: list[Tensor],
        noise: Tensor | None = None,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss.

        Args:
            student_tokens: the tokens (n, t, d) of each block.
            teacher_tokens: the same of the teacher.
            noise: (n, t), the tokens with the smallest are kept; drawn if left out.
            rows_per_rank: images of each process, if they differ.
        """
        self.check_inputs(student_tokens, teacher_tokens)
        places = zip(self.align, self.teacher_blocks, strict=True)
        student = [align(student_tokens[block]) for align, block in places]
        teacher = [at_least_fp32(teacher_tokens[block].detach()) for block in self.teacher_blocks]
        mimicked = sum(
            (at_least_fp32(own) - target).square().sum()
            for own, target in zip(student[:2], teacher[:2], strict=True)
        )
        if noise is None:
            noise = row_draws(self.seed, self.step, student[-1], rows_per_rank)
            if self.training:
                self.step.add_(1)
        masked = self.masked(noise)
        tokens = torch.where(masked, self.mask_token.to(student[-1].dtype), student[-1])
        side = math.isqrt(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        generated = at_least_fp32(self.generation(grid)).flatten(2).transpose(1, 2)
        missed = ((generated - teacher[-1]) * masked).square().sum()
        return (self.mimic * mimicked + self.generate / self.mask_ratio * missed) / len(masked)

    def check_inputs(self, student_tokens: list[Tensor], teacher_tokens: list[Tensor]) -> None:
        """Check that the tokens (n, t, d) of the blocks can be compared.

        Raises:
            ValueError: if they cannot.
        """
        blocks = len(student_tokens), len(teacher_tokens)
        if min(blocks) < 2:
            raise ValueError(
                f"ViTKD needs two blocks in each network; the student has {blocks[0]} and the "
                f"teacher {blocks[1]}."
            )
        count, width = student_tokens[-1].shape[1:]
        teacher_count, teacher_width = teacher_tokens[-1].shape[1:]
        if count != teacher_count or math.isqrt(count) ** 2 != count:
            raise ValueError(
                f"ViTKD needs equally many tokens in a square grid; the student has {count} and "
                f"the teacher {teacher_count}: use networks with the same patch size."
            )
        if (width, teacher_width) != self.dims:
            raise ValueError(
                f"ViTKD needs tokens as wide as the input of the classifier; they are {width} and "
                f"{teacher_width} wide, the inputs {self.dims[0]} and {self.dims[1]}."
            )

    def masked(self, noise: Tensor) -> Tensor:
        """Return which tokens are masked, (n, t, 1), for noise (n, t)."""
        rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
        return (rank >= int(noise.shape[1] * (1 - self.mask_ratio)))[:, :, None]
