"""Time the training step of a method against its two networks alone."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
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
CACHED_BATCHES = 4  # in a timed cache; the system keeps them all in memory


@dataclass(frozen=True)
class BenchmarkSetup:
    """The networks and sizes of a benchmark.

    Attributes:
        student: returns a new student on the CPU that maps images (n, 3, h, w) to logits (n, k).
        teacher: returns a new teacher in the same way.
        image_size: height and width of the images in pixels.
        num_classes: k.
        batch_size: n.
        num_images: N, size of the training set, which sets the length of memory banks.
        device: where the steps run.
        protocol: whose published weights the losses have.
        options: options of losses by loss name.
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
        """(N,) labels that go through the classes in turn."""
        return (torch.arange(self.num_images) % self.num_classes).to(self.device)

    def batch(self) -> Batch:
        """Return random images, the same on each call."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        images = torch.randn(shape, generator=generator)
        index = torch.randint(self.num_images, (self.batch_size,), generator=generator)
        labels = index % self.num_classes
        images = images.to(self.device)
        labels, index = labels.to(self.device), index.to(self.device)
        return Batch(images, labels, index, strong=images)


@dataclass(frozen=True)
class StepVariant:
    """A way to run the training step.

    Attributes:
        unoptimized: run the teacher itself in contiguous memory format, as most public code does.
        compile: compile the step.
        cached: read the teacher's features from a cache.
        precision: as in `Hyperparameters`.
    """

    unoptimized: bool = False
    compile: bool = False
    cached: bool = False
    precision: Precision = "fp32"

    @property
    def flags(self) -> str:
        """The flags of `distillers student` for it, without --views."""
        precision = "" if self.precision == "fp32" else f"--precision {self.precision}"
        flags = ("--compile" * self.compile, "--teacher_cache auto" * self.cached, precision)
        return " ".join(filter(None, flags))

    def build_step(self, setup: BenchmarkSetup, method: str, folder: Path) -> Callable[[], object]:
        """Return a function that runs one step: cache read, forward, backward, update.

        A cache is written to `folder`, which may be deleted when no step runs any more.
        """
        task = build_task(setup, method, unoptimized=self.unoptimized).train()
        hparams = Hyperparameters(
            1, learning_rate=1e-3, precision=self.precision, compile=self.compile
        )
        trainer = Trainer(task, hparams)
        batches = _cached_batches(task, setup, folder) if self.cached else repeat(setup.batch())

        def run() -> None:
            trainer.backward(next(batches), 0.0)
            trainer.optimizer_step()

        return run


PLAIN, DEFAULT = "plain", "default"
VARIANTS: dict[str, StepVariant] = {
    PLAIN: StepVariant(unoptimized=True),
    DEFAULT: StepVariant(),
    "compiled": StepVariant(compile=True),
    "cached": StepVariant(cached=True),
    "cached compiled": StepVariant(compile=True, cached=True),
    "bf16": StepVariant(precision="bf16"),
    "compiled bf16": StepVariant(compile=True, precision="bf16"),
    "cached compiled bf16": StepVariant(compile=True, cached=True, precision="bf16"),
}


def variants_for(device: torch.device, *, compiled: bool) -> list[str]:
    """Return the names of the variants that a device supports, with compiled ones if asked for."""
    precisions = candidates(device)
    return [
        name
        for name, variant in VARIANTS.items()
        if variant.precision in precisions and (compiled or not variant.compile)
    ]


def _cached_batches(task: Distillation, setup: BenchmarkSetup, folder: Path) -> Iterator[Batch]:
    """Yield a batch with the teacher's features of random rows of a full cache, without end."""
    batch = setup.batch()
    num_rows = CACHED_BATCHES * setup.batch_size
    key = {"format": 1, "teacher": {"model": "any"}, "data": {"name": "random", "images": num_rows}}
    cache = TeacherCache(
        CacheFolder(folder, key), task, cached_tensors(task, batch.images[:2]), num_rows
    )
    for rows in torch.arange(num_rows).split(setup.batch_size):
        cache.fill(batch.images, rows)
    rng = torch.Generator().manual_seed(0)
    while True:
        for rows in torch.randperm(num_rows, generator=rng).split(setup.batch_size):
            yield replace(batch, teacher=cache.values(batch.images, rows))


def build_task(setup: BenchmarkSetup, method: str, *, unoptimized: bool = False) -> Distillation:
    """Return the task of a method with its published weights, the same on each call."""
    recipe = recipes.recipe(setup.protocol, method)
    options = {**recipe.options, **setup.options.get(method, {})}
    torch.manual_seed(0)
    student, teacher = setup.student().to(setup.device), setup.teacher().to(setup.device)
    task = distil(
        student,
        teacher,
        recipe.weights(method),
        images=setup.batch().images[:2],
        train_labels=setup.train_labels,
        batch_size=setup.batch_size,
        options={method: options} if options else None,
    )
    if not unoptimized:
        return task.to(memory_format=torch.channels_last)
    return Distillation(
        student,
        teacher,
        [Term(name, loss, task.weights[name]) for name, loss in task.losses.items()],
        student_taps=task.student_taps,
        teacher_taps=task.teacher_taps,
    )


def cache_bytes(setup: BenchmarkSetup, method: str) -> int:
    """Return the size on the disk of a teacher cache with one view of every image."""
    reads = cached_tensors(build_task(setup, method), setup.batch().images[:2])
    return setup.num_images * sum(read.row_bytes for read in unique_tensors(reads))


def load_network(path: str, name: str | None, image_size: int) -> nn.Module:
    """Return the network in a checkpoint; see `distillers.load`."""
    return load(path, model=name, image_size=image_size, programs=False).net


def student_step(setup: BenchmarkSetup) -> Callable[[], object]:
    """Return a function that trains the student alone: forward, cross-entropy, backward, SGD."""
    batch = setup.batch()
    net = setup.student().to(setup.device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def run() -> None:
        F.cross_entropy(net(batch.images), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def teacher_forward(setup: BenchmarkSetup) -> Callable[[], object]:
    """Return a function that runs the teacher in evaluation mode, without gradient."""
    net, images = setup.teacher().to(setup.device).eval(), setup.batch().images
    return torch.no_grad()(lambda: net(images))


@dataclass(frozen=True)
class StepTiming:
    """Timing of one variant over several rounds.

    Attributes:
        ms: median milliseconds of a step.
        ratio: median of the step divided by student step + teacher forward of the same round.
        lowest: smallest of these ratios.
        highest: largest of these ratios.
        first_s: seconds of the first step, which compiles it.
    """

    ms: float
    ratio: float
    lowest: float
    highest: float
    first_s: float


def measure(
    setup: BenchmarkSetup,
    method: str,
    variants: Sequence[str],
    rounds: int,
    folder: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, StepTiming]:
    """Time the networks alone and some `VARIANTS` of a method's step in interleaved rounds.

    Caches are written to `folder`, and may be deleted afterwards.
    """
    torch.compiler.reset()  # else what was compiled for other methods counts against this one
    runs = {STUDENT: student_step(setup), TEACHER: teacher_forward(setup)}
    for name in variants:
        runs[name] = VARIANTS[name].build_step(setup, method, folder / f"{method}-{name}")
    first = time_interleaved(runs, 1, setup.device, warm_up=0, clock=clock)
    seconds = time_interleaved(runs, rounds, setup.device, warm_up=2, clock=clock)
    base = [s + t for s, t in zip(seconds[STUDENT], seconds[TEACHER], strict=True)]
    return {name: _timing(each, base, first[name][0]) for name, each in seconds.items()}


def _timing(seconds: Sequence[float], base: Sequence[float], first: float) -> StepTiming:
    ratios = [one / other for one, other in zip(seconds, base, strict=True)]
    median = statistics.median
    return StepTiming(1000 * median(seconds), median(ratios), min(ratios), max(ratios), first)
