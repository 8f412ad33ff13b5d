"""Distillation of handwritten digits in about a minute.

The teacher is trained on all 1,297 training digits, the student on only 50 of them, for 120 steps.
The teacher's outputs on these 50 images carry information that their labels lack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from scipy.stats import t
from torch import Tensor, nn

from distillers import models
from distillers.data import ImageSet, Loader, load
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distillation.task import Supervised
from distillers.losses import CE
from distillers.report.estimates import SampleStats
from distillers.training import runner as run
from distillers.training.trainer import Hyperparameters, fit

TEACHER, STUDENT = "resnet20", "resnet8"
SIDE = 16  # pixels
LABELLED = 50  # training images of the student
REPEAT, BATCH, EPOCHS = 12, 60, 12  # 12 x 50 / 60 = 10 steps an epoch, 120 in all
TEACHER_HPARAMS = Hyperparameters(epochs=12, learning_rate=0.05, milestones=(8, 11))
STUDENT_HPARAMS = Hyperparameters(
    epochs=EPOCHS, learning_rate=0.05, milestones=(8, 11), clip_grad=10.0
)
# Factors to the weights of the methods under the protocol of SimKD (cross-entropy 1, KL divergence
# 1 beside each method), which were chosen for 240 epochs. The rule: of 1, 1/10 and 1/100 (for
# SimKD, which has no other loss, also 10) the one with the best mean accuracy on the training
# digits that the student does not see, over two seeds that the demo does not use
# (`python benchmarks/demo_weights.py`).
FACTORS = {
    "fitnet": 0.1,
    "at": 0.1,
    "sp": 1.0,
    "vid": 1.0,
    "crd": 0.1,
    "srrl": 1.0,
    "semckd": 0.1,
    "simkd": 10.0,
    "rrd": 1.0,
    "dcd": 1.0,
}
PROTOCOL = "simkd"


@dataclass
class Result:
    """Results of one method.

    Attributes:
        name: name of the method.
        accuracies: test accuracy in percent, one for each seed.
        net: deployed network of the last seed.
        correct: (500,) bool, which test digits that network classifies correctly.
    """

    name: str
    accuracies: list[float] = field(default_factory=list)
    net: nn.Module | None = None
    correct: Tensor | None = None

    @property
    def stats(self) -> SampleStats:
        """Mean and standard deviation of the accuracies."""
        return SampleStats(self.accuracies)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % t interval of the mean accuracy; None for one seed."""
        return t_interval(self.accuracies)


@dataclass(frozen=True)
class Gain:
    """Mean gain in points over another method, and the ends of its 95 % interval if known."""

    mean: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        """Return the gain with its interval."""
        ends = f" [{self.interval[0]:+.1f}, {self.interval[1]:+.1f}]" if self.interval else ""
        return f"{self.mean:+.1f}{ends}"


def paired_gain(result: Result, alone: Result) -> Gain:
    """Return the gain over the student alone; the seeds are paired by their labelled images."""
    pairs = zip(result.accuracies, alone.accuracies, strict=True)
    gains = [one - other for one, other in pairs]
    return Gain(SampleStats(gains).mean, t_interval(gains))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the 95 % t interval of a mean; None for one value."""
    stats = SampleStats(values)
    if stats.sd is None:
        return None
    margin = float(t.ppf(0.975, stats.n - 1)) * stats.sd / stats.n**0.5
    return stats.mean - margin, stats.mean + margin


def train_teacher(images: ImageSet, device: torch.device) -> nn.Module:
    """Return a teacher trained on all training digits."""
    torch.manual_seed(0)
    task = Supervised(_create(TEACHER, images).to(device), CE())
    loader = images.train_loader(64, seed=0, drop_last=True, device=device)
    fit(task, loader, TEACHER_HPARAMS)
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
    images = digits()
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
            net = train_student(result.name, teacher, few, seed, device)
            result.accuracies.append(run.evaluate_on_splits(net, tests)["test_acc"])
            result.net = net
            report(f"seed {seed}, {result.name}: {result.accuracies[-1]:.1f} %")
    for result in results:
        assert result.net is not None  # there is at least one seed
        result.correct = _correct(result.net, tests["test"])
    return of_teacher, results, images


def digits() -> ImageSet:
    """Return the digits at half their height and width, for a quarter of the computation."""
    return load("digits").resized(SIDE)


def train_student(
    method: str, teacher: nn.Module, images: ImageSet, seed: int, device: torch.device
) -> nn.Module:
    """Return a student's deployed network."""
    torch.manual_seed(seed)
    student = _create(STUDENT, images).to(device)
    if method == "alone":
        task: Supervised | Distillation = Supervised(student, CE())
    else:
        row = weights(method)
        task = distil(
            student,
            teacher,
            row.weights(method),
            images=images.sample(device),
            train_labels=images.train_labels.to(device),
            batch_size=BATCH,
            options={method: row.options} if row.options else None,
        )
    loader = images.train_loader(BATCH, seed=seed, drop_last=True, device=device)
    fit(task, loader, STUDENT_HPARAMS)
    return task.deployed()


def weights(method: str) -> recipes.Recipe:
    """Return the weights and options of a method in the demo."""
    row = recipes.recipe(PROTOCOL, method)
    return replace(row, method=row.method * FACTORS.get(method, 1.0))


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
