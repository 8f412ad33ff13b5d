"""A teacher that is an exponential moving average of the student, or of another network."""

import copy

import torch
from torch import Tensor, nn

from distillers.errors import InputError


class EMATeacher(nn.Module):
    """The exponential moving average of a student's weights, as its teacher.

    "Mean teachers are better role models", Tarvainen and Valpola, 2017,
    https://arxiv.org/abs/1703.01780. It starts as a copy of the student. At the beginning of every
    training step its weights w become decay w + (1 - decay) s, with s those of the student; its
    buffers, such as running statistics, become the student's. It is in the state dict of its task,
    so that a resumed run continues with the same bits.

    With `follows_other` it follows the network that was given, another student in training, instead
    of the student of its task. With a decay of 0 it is a copy of that student at the beginning of
    the step, in evaluation mode: two tasks in a `JointTask`, each with the other's student as
    teacher, are mutual learning.

    Args:
        student: the network that it follows, and starts as a copy of.
        decay: in [0, 1].
        follows_other: whether to follow `student` where that is not the student of the task.
    """

    def __init__(
        self, student: nn.Module, decay: float = 0.999, *, follows_other: bool = False
    ) -> None:
        if not 0 <= decay <= 1:
            raise InputError(f"the decay of an EMATeacher is {decay}; it must be in [0, 1].")
        super().__init__()
        self.net = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay
        # In a tuple, so that the other network is no submodule.
        self._others = (student,) if follows_other else ()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (n, k) of images (n, c, h, w)."""
        return self.net(images)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Move the weights towards those of the student, or of the other network."""
        student = next(iter(self._others), student)
        own: list[Tensor] = list(self.net.parameters())
        theirs = [p.detach() for p in student.parameters()]
        torch._foreach_lerp_(own, theirs, 1 - self.decay)
        for buffer, other in zip(self.net.buffers(), student.buffers(), strict=True):
            buffer.copy_(other)
