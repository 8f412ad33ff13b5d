"""Distillation of handwritten digits in a few minutes.

The teacher is trained on all 1,297 training digits, the student on only 50 of them, for 120 steps.
The teacher's outputs on these 50 images carry information that their labels lack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers import models
from distillers.data import ImageSet, Loader, load
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distillation.task import Supervised
from distillers.losses import CE
from distillers.training import runner as run
from distillers.training.trainer import Hyperparameters, fit

TEACHER, STUDENT = "resnet20", "resnet8"
LABELLED = 50  # training images of the student
REPEAT, BATCH, EPOCHS = 12, 60, 12  # 12 x 50 / 60 = 10 steps an epoch, 120 in all
TEACHER_HPARAMS = Hyperparameters(epochs=12, learning_rate=0.05, milestones=(8, 11))
STUDENT_HPARAMS = Hyperparameters(
    epochs=EPOCHS, learning_rate=0.05, milestones=(8, 11), clip_grad=10.0
)
PROTOCOL = "crd"


@dataclass
class Result:
    """Results of one method.

    Attributes:
        name: name of the method.
        accuracies: test accuracy in percent, one for each seed.
        curves: test accuracy after every epoch, one list for each seed.
        net: deployed network of the last seed.
        correct: (500,) bool, which test digits that network classifies correctly.
    """

    name: str
    accuracies: list[float] = field(default_factory=list)
    curves: list[list[float]] = field(default_factory=list)
    net: nn.Module | None = None
    correct: Tensor | None = None


def train_teacher(images: ImageSet, device: torch.device) -> nn.Module:
    """Return a teacher trained on all training digits."""
    torch.manual_seed(0)
    task = Supervised(_create(TEACHER, images).to(device), CE())
    loader = images.train_loader(64, seed=0, drop_last=True, device=device)
    fit(task, loader, TEACHER_HPARAMS, evaluate=lambda _: {}, on_epoch_end=lambda *_: None)
    return task.deployed()


def compare(
    methods: Sequence[str],
    seeds: Sequence[int],
    device: torch.device,
    report: Callable[[str], None],
) -> tuple[Result, list[Result], ImageSet]:
    """Train the teacher, and a student with each method for each seed.

    Args:
        methods: names of losses; "alone" trains without a teacher.
        seeds: each selects the labelled digits, the initial weights and the order of images.
        device: device to train on.
        report: called with a line of text after each network.

    Returns:
        The teacher's result, the result of each method, and the digits.
    """
    images = halved(load("digits"))
    tests = {"test": images.test_loader(device)}
    teacher = train_teacher(images, device)
    of_teacher = Result(
        "teacher", [run.evaluate_on_splits(teacher, tests)["test_acc"]], net=teacher
    )
    report(f"teacher {TEACHER}: {of_teacher.accuracies[0]:.1f} %")
    results = [Result(name) for name in methods]
    for seed in seeds:
        few = images.keep(_balanced_rows(images.train_labels, LABELLED, seed).repeat(REPEAT))
        for result in results:
            net, curve = _train_student(result.name, teacher, few, tests, seed, device)
            result.accuracies.append(curve[-1])
            result.curves.append(curve)
            result.net = net
            report(f"seed {seed}, {result.name}: {curve[-1]:.1f} %")
    for result in results:
        assert result.net is not None  # there is at least one seed
        result.correct = _correct(result.net, tests["test"])
    return of_teacher, results, images


def halved(images: ImageSet) -> ImageSet:
    """Return the images at half their height and width, for a quarter of the computation."""
    return replace(
        images,
        train_images=F.avg_pool2d(images.train_images.float(), 2).round().byte(),
        test_images=F.avg_pool2d(images.test_images.float(), 2).round().byte(),
    )


def _train_student(
    method: str,
    teacher: nn.Module,
    images: ImageSet,
    tests: dict[str, Loader],
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, list[float]]:
    """Return a student's deployed network and its test accuracy after every epoch."""
    torch.manual_seed(seed)
    student = _create(STUDENT, images).to(device)
    if method == "alone":
        task: Supervised | Distillation = Supervised(student, CE())
    else:
        row = recipes.recipe(PROTOCOL, method)
        task = distil(
            student,
            teacher,
            row.weights(method),
            images=images.sample(device),
            train_labels=images.train_labels.to(device),
            batch_size=BATCH,
            options={method: row.options} if row.options else None,
        )
    curve: list[float] = []
    fit(
        task,
        images.train_loader(BATCH, seed=seed, drop_last=True, device=device),
        STUDENT_HPARAMS,
        evaluate=lambda net: run.evaluate_on_splits(net, tests),
        on_epoch_end=lambda row, state, net: curve.append(row["test_acc"]),  # noqa: ARG005
    )
    return task.deployed(), curve


def _create(name: str, images: ImageSet) -> nn.Module:
    return models.create(name, num_classes=images.num_classes, image_size=images.image_size)


def _balanced_rows(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` random rows with equally many of each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes = labels.unique()
    each = count // len(classes)
    return torch.cat([order[labels[order] == number][:each] for number in classes])


@torch.no_grad()
def _correct(net: nn.Module, test: Loader) -> Tensor:
    net.eval()
    return torch.cat([net(b.images).argmax(1) == b.labels for b in test.epoch(1)]).cpu()
