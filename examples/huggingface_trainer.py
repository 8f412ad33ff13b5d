# %% [markdown]
# # A method inside Hugging Face's Trainer
#
# `Trainer` asks its model for a dictionary with a `loss`. `Distilled` is such a model around
# `distillers.distil`: any loss of this library then runs with Trainer's optimizers, precision,
# logging and checkpoints. The data set gives the index of each image too, for the losses that
# read it (CRD).
#
# Needs `pip install -e ".[examples]"`.

# %%
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import distillers
from distillers import models
from distillers.data import Batch


class Distilled(nn.Module):
    """A task of distillation with the interface of a model of transformers.

    Args:
        task: the student, its teacher and the losses.
    """

    def __init__(self, task: distillers.Distillation) -> None:
        super().__init__()
        self.task = task

    def forward(self, pixel_values: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Return the loss and the student's logits (n, k) of images (n, 3, h, w)."""
        step = self.task(Batch(pixel_values, labels, index))
        return {"loss": step.loss, "logits": step.logits}


# %% [markdown]
# ## Data
#
# Handwritten digits as 16 x 16 images of three channels.

# %%
torch.manual_seed(0)
pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
images = pixels.float().div(16).reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1)
images = nn.functional.interpolate(images, size=16)
rows = [
    {"pixel_values": image, "labels": label, "index": torch.tensor(index)}
    for index, (image, label) in enumerate(zip(images[:512], labels[:512], strict=True))
]

# %% [markdown]
# ## Train
#
# The teacher would be one of yours; here it has random weights.

# %%
student = models.create("resnet8", num_classes=10)
teacher = models.create("resnet20", num_classes=10)
losses = {"ce": 1.0, "kd": 0.1, "rkd": 0.1}
task = distillers.distil(student, teacher, losses, images=images[:2], train_labels=labels[:512])
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=64,
    num_train_epochs=2,
    learning_rate=1e-2,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
)
result = Trainer(model=Distilled(task), args=arguments, train_dataset=rows).train()
deployed = task.deployed().eval()
with torch.no_grad():
    right = (deployed(images[512:]).argmax(1) == labels[512:]).float().mean()
print(f"{result.global_step} steps, {100 * right:.0f} % of the other digits")
