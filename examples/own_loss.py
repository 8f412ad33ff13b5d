"""A method of your own: one module whose parameter names say what it reads.

Use it as `python train_student.py --path_t ... --loss examples.own_loss:Centre`, with options as
`--option centre.power=2`.
"""

from torch import Tensor, nn


class Centre(nn.Module):
    """The student's embedding of an image lies as far from the batch's centre as the teacher's.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's.
        power: of the difference.
    """

    def __init__(self, student_dim: int, teacher_dim: int, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = power
        self.project = nn.Linear(student_dim, teacher_dim)

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from (n, student_dim) and (n, teacher_dim)."""
        student = self.project(student_pooled)
        teacher = teacher_pooled.detach()
        spread = (student - student.mean(0)).square().mean(1)
        reference = (teacher - teacher.mean(0)).square().mean(1)
        return (spread - reference).abs().pow(self.power).mean()


if __name__ == "__main__":
    import torch

    import distillers
    from distillers import models
    from distillers.data.batch import Batch

    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    student, teacher = (models.create(name, num_classes=10) for name in ("resnet8", "resnet20"))
    task = distillers.distil(
        student, teacher, {"ce": 1.0, "examples.own_loss:Centre": 0.5}, images=images[:2]
    )
    print(task(Batch(images, labels, torch.arange(8))).parts)
