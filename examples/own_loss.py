# %% [markdown]
# # Add a method
#
# A method is a module whose parameter names say what it reads: `forward` names its inputs,
# `__init__` the facts about both networks that it requires. Keyword-only parameters with a
# default are its options.
#
# Saved in a file, it is used without changing the library, with all flags of the commands:
#
# ```sh
# python train_student.py --path_t TEACHER --loss examples.own_loss:Centre -b 0.5
# ```

# %%
import torch
from torch import Tensor, nn

import distillers
from distillers import models
from distillers.data import Batch


class Centre(nn.Module):
    """Match each image's distance from the batch's mean embedding to that of the teacher.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's.
        power: exponent of the difference.
    """

    def __init__(self, student_dim: int, teacher_dim: int, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = power
        self.project = nn.Linear(student_dim, teacher_dim)

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """Compute the loss from (n, student_dim) and (n, teacher_dim)."""
        student = self.project(student_pooled)
        teacher = teacher_pooled.detach()
        spread = (student - student.mean(0)).square().mean(1)
        reference = (teacher - teacher.mean(0)).square().mean(1)
        return (spread - reference).abs().pow(self.power).mean()


# %% [markdown]
# ## Try it
#
# `distil` finds the embeddings of both networks, builds the loss from their widths, and calls it
# with what it names.

# %%
if __name__ == "__main__":
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    student, teacher = (models.create(name, num_classes=10) for name in ("resnet8", "resnet20"))
    losses = {"ce": 1.0, "examples.own_loss:Centre": 0.5}
    task = distillers.distil(student, teacher, losses, images=images[:2])
    step = task(Batch(images, labels, torch.arange(8)))
    step.loss.backward()
    print({name: round(value.item(), 3) for name, value in step.parts.items()})
    print("parameters of the loss:", [name for name, _ in task.losses.named_parameters()])
