# %% [markdown]
# # A method inside Lightning
#
# The task of `distillers.distil` is a module: a `LightningModule` calls it in `training_step`,
# and gives all its parameters, those of the losses included, to the optimizer.
#
# Needs `pip install -e ".[examples]"`.

# %%
import logging
import tempfile

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import distillers
from distillers import models
from distillers.data import Batch


class DistilledModule(lightning.LightningModule):
    """A task of distillation for Lightning's Trainer.

    Args:
        task: the student, its teacher and the losses.
        learning_rate: that of SGD.
    """

    def __init__(self, task: distillers.Distillation, learning_rate: float = 0.05) -> None:
        super().__init__()
        self.task = task
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of images (n, 3, h, w), labels (n,) and indices (n,)."""
        images, labels, index = batch
        step = self.task(
            Batch(images, labels, index), self.trainer.current_epoch / self.trainer.max_epochs
        )
        self.log_dict(step.parts)
        return step.loss

    def on_fit_start(self) -> None:
        """Move the teacher, which is not a submodule, to the device of the student."""
        self.task.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimize the student and the losses' own parameters."""
        return torch.optim.SGD(self.task.parameters(), lr=self.learning_rate, momentum=0.9)


# %% [markdown]
# ## Train
#
# Handwritten digits as 16 x 16 images; the teacher would be one of yours, here it has random
# weights.

# %%
torch.manual_seed(0)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
images = pixels.float().div(16).reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1)
images = nn.functional.interpolate(images, size=16)
student = models.create("resnet8", num_classes=10)
teacher = models.create("resnet20", num_classes=10)
losses = {"ce": 1.0, "kd": 0.1, "crd": 0.1}
task = distillers.distil(student, teacher, losses, images=images[:2], train_labels=labels[:512])
data = TensorDataset(images[:512], labels[:512], torch.arange(512))
trainer = lightning.Trainer(
    max_epochs=2,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    default_root_dir=tempfile.mkdtemp(),
)
trainer.fit(DistilledModule(task), DataLoader(data, batch_size=64, shuffle=True))
deployed = task.deployed().eval()
with torch.no_grad():
    right = (deployed(images[512:]).argmax(1) == labels[512:]).float().mean()
print(f"{trainer.global_step} steps, {100 * right:.0f} % of the other digits")
