# %% [markdown]
# # A method inside timm's training script
#
# timm's `train.py` trains a `TrainingTask`: a module whose `forward(input, target)` returns a
# dictionary with the loss. `DistillersTask` is one around `distillers.distil`, so that any loss
# of this library runs there, with timm's data, optimizers, schedules and EMA. In a copy of
# `train.py`, replace the line that creates the task by
#
# ```text
# task = DistillersTask(model, teacher, {"ce": 1.0, "rrd": 1.0}, images=torch.zeros(2, 3, 224, 224))
# ```
#
# Losses that need the index of an image in the training set (CRD) are not possible: timm's
# loaders have none.

# %%
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.task import TrainingTask
from torch import Tensor, nn

import distillers
from distillers.data import Batch


class DistillersTask(TrainingTask):
    """A student of timm that learns from a teacher by a weighted sum of losses.

    Args:
        student: the network to train.
        teacher: the network to learn from.
        losses: weight of each loss by name.
        images: a few images (n, 3, h, w) from which shapes are read.
        device: where to train.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        losses: dict[str, float],
        *,
        images: Tensor,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(device=device, verbose=False)
        self.student = student
        self.trainable_module = distillers.distil(student, teacher, losses, images=images)
        self.trainable_module.to(self.device)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:  # noqa: A002
        """Return the loss of a batch, its unweighted parts and the student's logits (n, k)."""
        index = torch.arange(len(input), device=input.device)
        step = self.trainable_module(Batch(input, target, index))
        return {"loss": step.loss, "output": step.logits, **step.parts}

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module:
        """Return the network to evaluate and save: the one that the method deploys."""
        del module
        task = self.trainable_module_ema.module if ema else self.trainable_module
        return task.deployed()


# %% [markdown]
# ## Try it
#
# A few steps on random images, with timm's optimizer.

# %%
if __name__ == "__main__":
    torch.manual_seed(0)
    student = timm.create_model("test_resnet", num_classes=10)
    teacher = timm.create_model("test_vit", num_classes=10, img_size=64)
    losses = {"ce": 1.0, "kd": 1.0, "rrd": 1.0}
    task = DistillersTask(student, teacher, losses, images=torch.randn(2, 3, 64, 64))
    optimizer = create_optimizer_v2(task, "adamw", lr=1e-3)
    images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
    for step in range(3):
        result = task(images, labels)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        print(step, {name: round(result[name].item(), 2) for name in ("loss", *losses)})
    print(type(task.get_eval_model()).__name__)
