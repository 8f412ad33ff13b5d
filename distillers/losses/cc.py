"""CC: how the images of a batch relate to each other is the same for student and teacher."""

import math

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.validation import require_non_negative, require_positive

FORMS = ("consecutive", "matrix")


class CC(nn.Module):
    """Correlation Congruence for Knowledge Distillation.

    Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang, 2019, https://arxiv.org/abs/1904.01802.

    Both embeddings pass a learned linear map to one width; then two forms.

    `"consecutive"` is the form of the public tables, given by the authors to the benchmark of the
    CRD paper: with e_i the distance, element by element, of student and teacher at image i,

        mean over i of <e_i, e_{i+1}>

    It compares each image with the next one, and so depends on the order of the batch. There the
    embeddings keep their lengths; `normalise=True` brings them to one, which makes the loss some
    25 times smaller.
    `"matrix"` is the form of the paper, which does not: the squared distance, divided by n^2, of
    the two n x n matrices of the Gaussian kernel exp(-gamma |x - y|^2) between embeddings of length
    one, by its Taylor series of some order.

    Published weight: 0.02 (for `"consecutive"`). Both linear maps are learned, and discarded.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        dim: width that both are brought to.
        form: `"consecutive"` or `"matrix"`.
        normalise: bring the embeddings to length one (`"consecutive"`; `"matrix"` always does).
        gamma: of the Gaussian kernel (`"matrix"` only).
        order: of its Taylor series (`"matrix"` only).
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.

    Raises:
        ValueError: for another form, or an option out of range.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        dim: int = 128,
        form: str = "consecutive",
        normalise: bool = False,
        gamma: float = 0.4,
        order: int = 2,
        gather: bool = True,
    ) -> None:
        require_positive(dim=dim)
        require_non_negative(gamma=gamma, order=order)
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; it may be {' or '.join(map(repr, FORMS))}.")
        self.form = form
        self.normalise = normalise
        self.gamma = gamma
        self.order = order
        self.gather = gather
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t); zero for one image."""
        student = at_least_fp32(self.embed_student(student_pooled))
        teacher = at_least_fp32(self.embed_teacher(teacher_pooled.detach()))
        if self.normalise or self.form == "matrix":
            student, teacher = l2_normalize(student), l2_normalize(teacher)
        if self.form == "consecutive":
            apart = gathered((student - teacher).abs(), self.gather)
            return (apart[:-1] * apart[1:]).sum() / max(len(apart) - 1, 1)
        return (self.kernel(student) - self.kernel(teacher)).square().mean()

    def kernel(self, rows: Tensor) -> Tensor:
        """(n, images compared with) of the truncated Gaussian kernel of unit rows (n, dim)."""
        with no_autocast(rows):
            twice = 2 * self.gamma * (rows @ gathered(rows, self.gather).T)
        series = [twice**power / math.factorial(power) for power in range(self.order + 1)]
        return math.exp(-2 * self.gamma) * torch.stack(series).sum(dim=0)
