# %% [markdown]
# # One loss in your own training loop
#
# A loss is a plain `torch.nn.Module`: tensors in, a scalar out. Here a small network learns
# handwritten digits from a larger one, in a loop of plain PyTorch; nothing else of the library is
# used.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from distillers.losses import KD

torch.manual_seed(0)
pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
images = pixels.float().div(16).reshape(-1, 1, 8, 8)
order = torch.randperm(len(images))
labelled, all_images, test = order[:100], order[:1000], order[1000:]


# %% [markdown]
# ## Networks


# %%
def network(width: int) -> nn.Sequential:
    """Build two convolutions and a classifier of ten classes."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * width, 10)),
    )


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """Return the test accuracy in percent."""
    return 100 * (net(images[test]).argmax(1) == labels[test]).float().mean().item()


# %% [markdown]
# ## The loop
#
# Without a teacher it is ordinary training with cross-entropy. With one, the loss is the KL
# divergence from the teacher's softened probabilities, which needs no labels.


# %%
def fit(
    net: nn.Module, rows: Tensor, teacher: nn.Module | None = None, epochs: int = 40
) -> list[float]:
    """Train a network and return its test accuracy after each epoch."""
    kd = KD(temperature=4.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    accuracies = []
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows))].split(50):
            logits = net(images[batch])
            if teacher is None:
                loss = F.cross_entropy(logits, labels[batch])
            else:
                with torch.no_grad():
                    teacher_logits = teacher(images[batch])
                loss = kd(logits, teacher_logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracies.append(accuracy(net))
    return accuracies


# %%
teacher = network(32)
fit(teacher, all_images, epochs=15)
print(f"teacher: {accuracy(teacher):.1f} %")
curves = {}
for name, rows, taught_by in (
    ("student alone, 100 labels", labelled, None),
    ("student with KD, 1,000 images, no labels", all_images, teacher),
):
    torch.manual_seed(1)  # the same initial weights
    curves[name] = fit(network(4), rows, taught_by)
    print(f"{name}: {curves[name][-1]:.1f} %")

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for name, curve in curves.items():
    axes.plot(curve, label=name)
axes.set(xlabel="epoch", ylabel="test accuracy, %")
axes.legend(frameon=False)
