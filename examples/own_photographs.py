# %% [markdown]
# # Distill your own photographs
#
# From a folder of images to a small network: fine-tune a teacher, distill a student from it,
# export it, and look at its predictions. Two photographs, cut into squares, stand for a data set;
# the task is to tell from which one a square is. Each command is what you would type in a shell
# after `distillers`.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import distillers
from distillers.cli.main import main

# %% [markdown]
# ## A folder of classes
#
# `photos/train/CLASS/...` and `photos/val/CLASS/...`.

# %%
os.chdir(tempfile.mkdtemp())
for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
    whole = Image.fromarray(pixels)
    for number in range(40):
        part = Path("photos", "val" if number % 4 == 3 else "train", name)
        part.mkdir(parents=True, exist_ok=True)
        left, top = 80 * (number % 8), 80 * (number // 8)
        whole.crop((left, top, left + 80, top + 80)).save(part / f"{number:02}.jpg")

# %% [markdown]
# ## Teacher and student
#
# Your teacher would start from published weights (`--pretrained`); here there is no network
# connection.

# %%
data = ["--dataset", "folder", "--data_dir", "photos", "--image_size", "32"]
flags = [*data, "--batch_size", "20", "--num_workers", "0", "--trial", "0"]
main(["teacher", "--model", "resnet20", "--epochs", "12", *flags])

# %%
teacher = "save/teachers/models/resnet20_vanilla"
method = ["--path_t", teacher, "--model_s", "resnet8", "--distill", "kd"]
main(["student", *method, "--epochs", "12", *flags])

# %% [markdown]
# ## One file
#
# The file holds the network, its classes, and how to prepare an image.

# %%
(student,) = Path("save/students/models").iterdir()
main(["export", str(student), "--format", "safetensors", "--out", "student.safetensors"])

# %%
net = distillers.load("student.safetensors").eval()
paths = sorted(Path("photos/val").glob("*/*.jpg"))[::4]
figure, axes = plt.subplots(1, len(paths), figsize=(8, 2), layout="constrained")
for axis, path in zip(axes, paths, strict=True):
    picture = Image.open(path).resize((32, 32))
    pixels = torch.tensor(list(picture.tobytes()), dtype=torch.uint8).reshape(1, 32, 32, 3)
    with torch.no_grad():
        guess = net(net.preprocess(pixels.permute(0, 3, 1, 2))).argmax().item()
    axis.imshow(picture)
    axis.set_axis_off()
    axis.set_title(net.card["class_names"][guess], fontsize=9)
