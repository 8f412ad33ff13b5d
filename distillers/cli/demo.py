"""Distillation of handwritten digits in about a minute.

The teacher is trained on all 1,297 training digits, the student on only 50 of them, for 120 steps.
The teacher's outputs on these 50 images carry information that their labels lack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from distillers import data, models
from distillers.checkpoints.card import complete_card, create_card
from distillers.checkpoints.export import SUFFIXES, export
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.onnx import NEEDED
from distillers.data import ImageSet
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distillation.task import Supervised
from distillers.losses import CE
from distillers.models.profile import latencies_ms
from distillers.report.estimates import SampleStats
from distillers.training.evaluate import score
from distillers.training.predictions import collect
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


def paired_gain(result: Result, alone: Result) -> SampleStats:
    """Return the gains in points over the student alone with the same labelled images."""
    pairs = zip(result.accuracies, alone.accuracies, strict=True)
    return SampleStats([one - other for one, other in pairs])


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
    tests = images.test_loader(device)
    teacher = train_teacher(images, device)
    teacher_result = Result("teacher", [score(teacher, tests.epoch(1)).acc], net=teacher)
    report(f"teacher {TEACHER}: {teacher_result.accuracies[0]:.1f} %")
    results = [Result(name) for name in methods]
    for seed in seeds:
        few = images.keep(_balanced_rows(images.train_labels, LABELLED, seed).repeat(REPEAT))
        for result in results:
            net = train_student(result.name, teacher, few, seed, device)
            result.accuracies.append(score(net, tests.epoch(1)).acc)
            result.net = net
            report(f"seed {seed}, {result.name}: {result.accuracies[-1]:.1f} %")
    for result in results:
        assert result.net is not None  # there is at least one seed
        (seen,) = collect([result.net], tests.epoch(1))
        result.correct = seen.classes() == seen.labels()
    return teacher_result, results, images


def digits() -> ImageSet:
    """Return the digits at half their height and width, for a quarter of the computation."""
    return data.load("digits").resized(SIDE)


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


@dataclass(frozen=True)
class ExportedPair:
    """The files of the teacher and of the best student.

    Attributes:
        teacher: file of the teacher.
        student: file of the best student.
        method: its method.
        latencies: median milliseconds of a forward of one image, by file, interleaved.
        runtime: what ran them.
    """

    teacher: Path
    student: Path
    method: str
    latencies: dict[Path, float]
    runtime: str


def export_pair(folder: Path, teacher: Result, student: Result, images: ImageSet) -> ExportedPair:
    """Export both networks as ONNX, or as safetensors without the extra `export`."""
    form = "onnx" if all(find_spec(name) for name in NEEDED["export"]) else "safetensors"
    paths = {}
    sample = next(images.test_loader(torch.device("cpu")).epoch(1)).images
    for result, name in ((teacher, TEACHER), (student, STUDENT)):
        assert result.net is not None  # set by compare
        net = result.net.cpu().eval()
        card = create_card(name, images, channels_last=False)
        card["accuracy"] = result.accuracies[-1]
        if deployed := getattr(net, "card", None):
            card["deploy"] = deployed
        classifier = Classifier(net, card)
        path = folder / f"{'teacher' if result is teacher else 'student'}{SUFFIXES[form]}"
        export(classifier, complete_card(classifier, images), path, form, sample)
        paths[result.name] = path
    both = (paths[teacher.name], paths[student.name])
    latencies = latencies_ms({path: (load(path).net, images.image_size, 1) for path in both})
    runtime = "onnxruntime" if form == "onnx" else "PyTorch; with the extra `export`: ONNX"
    return ExportedPair(*both, student.name, latencies, runtime)
