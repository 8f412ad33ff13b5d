"""What a step of a method costs, beside the steps of its two networks alone."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.checkpoints.load import load
from distillers.config.hyperparameters import Precision
from distillers.data.batch import Batch
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.cache.folder import CacheFolder
from distillers.distillation.cache.teacher_cache import TeacherCache, cached_tensors, unique_tensors
from distillers.distillation.distillation import Distillation
from distillers.distillation.terms import Term
from distillers.timing import time_interleaved
from distillers.training.autotune import candidates
from distillers.training.trainer import Hyperparameters, Trainer

STUDENT, TEACHER = "student step", "teacher forward"
CACHED_BATCHES = 4  # that a measured cache holds; the system keeps them all in memory


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        student: makes a new student on the CPU, images (n, 3, h, w) to logits (n, k).
        teacher: likewise a teacher.
        image_size: side of the images in pixels.
        num_classes: k.
        batch_size: n.
        num_images: N, of the training set: the length of memory banks.
        device: where to measure.
        protocol: whose published weights.
        options: options of losses by their names.
    """

    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module]
    image_size: int = 32
    num_classes: int = 100
    batch_size: int = 64
    num_images: int = 50_000
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    protocol: str = "crd"
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def train_labels(self) -> Tensor:
        """(N,) classes in turn."""
        return (torch.arange(self.num_images) % self.num_classes).to(self.device)

    def batch(self) -> Batch:
        """Random images; the same on each call."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        images = torch.randn(shape, generator=generator)
        index = torch.randint(self.num_images, (self.batch_size,), generator=generator)
        labels = index % self.num_classes
        return Batch(images.to(self.device), labels.to(self.device), index.to(self.device))


@dataclass(frozen=True)
class Way:
    """A way to run a step.

    Attributes:
        as_given: the teacher itself runs, and everything is in the order of its making, as in most
            public code.
        compile: the step is compiled.
        cached: what the losses ask of the teacher is read from a cache.
        precision: as in `Hyperparameters`.
    """

    as_given: bool = False
    compile: bool = False
    cached: bool = False
    precision: Precision = "fp32"

    @property
    def flags(self) -> str:
        """What asks for it on the command line, the number of views aside."""
        precision = "" if self.precision == "fp32" else f"--precision {self.precision}"
        flags = ("--compile" * self.compile, "--teacher_cache auto" * self.cached, precision)
        return " ".join(filter(None, flags))

    def step(self, setting: Setting, method: str, folder: Path) -> Callable[[], object]:
        """A function that does one whole step: reading a cache, forward, backward, weights.

        Args:
            setting: what is measured.
            method: name of a loss.
            folder: for a cache; to be deleted by the caller, when no step is made any more.
        """
        task = task_of(setting, method, as_given=self.as_given).train()
        hparams = Hyperparameters(
            1, learning_rate=1e-3, precision=self.precision, compile=self.compile
        )
        trainer = Trainer(task, hparams)
        batches = _cached(task, setting, folder) if self.cached else _the_same(setting)

        def run() -> None:
            trainer.backward(next(batches), 0.0)
            trainer.optimizer_step()

        return run


PLAIN, DEFAULT = "plain", "default"
WAYS: dict[str, Way] = {
    PLAIN: Way(as_given=True),
    DEFAULT: Way(),
    "compiled": Way(compile=True),
    "cached": Way(cached=True),
    "cached compiled": Way(compile=True, cached=True),
    "bf16": Way(precision="bf16"),
    "compiled bf16": Way(compile=True, precision="bf16"),
    "cached compiled bf16": Way(compile=True, cached=True, precision="bf16"),
}


def ways_on(device: torch.device, *, compiled: bool) -> list[str]:
    """Those that are worth measuring on a device.

    Args:
        device: where to measure.
        compiled: whether compiled steps are among them, which take minutes to make.
    """
    can_be = candidates(device)
    return [
        name
        for name, way in WAYS.items()
        if way.precision in can_be and (compiled or not way.compile)
    ]


def _the_same(setting: Setting) -> Iterator[Batch]:
    batch = setting.batch()
    while True:
        yield batch


def _cached(task: Distillation, setting: Setting, folder: Path) -> Iterator[Batch]:
    """Batches with what the teacher says of other rows each, of a cache that holds everything."""
    batch = setting.batch()
    num_rows = CACHED_BATCHES * setting.batch_size
    key = {"format": 1, "teacher": {"model": "any"}, "data": {"name": "random", "images": 0}}
    cache = TeacherCache(
        CacheFolder(folder, key), task, cached_tensors(task, batch.images[:2]), num_rows
    )
    for rows in torch.arange(num_rows).split(setting.batch_size):
        cache.fill(batch.images, rows)
    rng = torch.Generator().manual_seed(0)
    while True:
        for rows in torch.randperm(num_rows, generator=rng).split(setting.batch_size):
            yield replace(batch, teacher=cache.values(batch.images, rows))


def task_of(setting: Setting, method: str, *, as_given: bool = False) -> Distillation:
    """The task of a method with its published weights, the same on each call.

    Args:
        setting: what is measured.
        method: name of a loss.
        as_given: see `Way`.
    """
    row = recipes.recipe(setting.protocol, method)
    options = {**row.options, **setting.options.get(method, {})}
    torch.manual_seed(0)
    student, teacher = setting.student().to(setting.device), setting.teacher().to(setting.device)
    task = distil(
        student,
        teacher,
        row.weights(method),
        images=setting.batch().images[:2],
        train_labels=setting.train_labels,
        batch_size=setting.batch_size,
        options={method: options} if options else None,
    )
    if not as_given:
        return task.to(memory_format=torch.channels_last)
    return Distillation(
        student,
        teacher,
        [Term(name, loss, task.weights[name]) for name, loss in task.losses.items()],
        student_taps=task.student_taps,
        teacher_taps=task.teacher_taps,
    )


def cache_bytes(setting: Setting, method: str) -> int:
    """What a teacher cache takes on the disk for one view of every image."""
    reads = cached_tensors(task_of(setting, method), setting.batch().images[:2])
    return setting.num_images * sum(read.row_bytes for read in unique_tensors(reads))


def saved(path: str, name: str | None, image_size: int) -> nn.Module:
    """Return the network in a checkpoint; see `distillers.load`."""
    return load(path, model=name, image_size=image_size, programs=False).net


def student_step(setting: Setting) -> Callable[[], object]:
    """The student alone: forward, cross-entropy, backward, SGD, as most public code runs it."""
    batch = setting.batch()
    net = setting.student().to(setting.device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def run() -> None:
        F.cross_entropy(net(batch.images), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def teacher_forward(setting: Setting) -> Callable[[], object]:
    """The teacher's forward in evaluation mode, as most public code runs it."""
    net, images = setting.teacher().to(setting.device).eval(), setting.batch().images
    return torch.no_grad()(lambda: net(images))


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Attributes:
        ms: milliseconds of a step, the median over rounds.
        ratio: of student step + teacher forward of the same round, likewise.
        lowest: of those ratios.
        highest: of those ratios.
        first_s: seconds of the first step, which compiles it.
    """

    ms: float
    ratio: float
    lowest: float
    highest: float
    first_s: float


def measure(
    setting: Setting,
    method: str,
    ways: Sequence[str],
    rounds: int,
    folder: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Row]:
    """The networks alone and a method's step, one row each.

    Args:
        setting: what is measured.
        method: name of a loss.
        ways: some of `WAYS`.
        rounds: each runs everything once.
        folder: for caches; they may be deleted afterwards.
        clock: gives seconds.
    """
    torch.compiler.reset()  # else what was compiled for other methods counts against this one
    runs = {STUDENT: student_step(setting), TEACHER: teacher_forward(setting)}
    runs |= {way: WAYS[way].step(setting, method, folder / f"{method}-{way}") for way in ways}
    first = time_interleaved(runs, 1, setting.device, warm_up=0, clock=clock)
    seconds = time_interleaved(runs, rounds, setting.device, warm_up=2, clock=clock)
    base = [s + t for s, t in zip(seconds[STUDENT], seconds[TEACHER], strict=True)]
    return {name: _row(each, base, first[name][0]) for name, each in seconds.items()}


def _row(seconds: Sequence[float], base: Sequence[float], first: float) -> Row:
    ratios = [one / other for one, other in zip(seconds, base, strict=True)]
    median = statistics.median
    return Row(1000 * median(seconds), median(ratios), min(ratios), max(ratios), first)
