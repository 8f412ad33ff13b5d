"""`distillers bench`: what each method's step costs for a pair on this device, and what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distillers.config.flags import require
from distillers.config.parsing import parse
from distillers.config.student import canonical_method
from distillers.distillation.recipes import ELEVEN

if TYPE_CHECKING:
    from distillers.training.benchmark import Setting


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure what a step of each method costs for a pair of networks on this device.

    The plain step is that of most public code: the teacher as it is, everything eager, in single
    precision. Images are random; a cached step reads from a cache that holds everything.
    """

    path_t: str | None = None
    """The teacher's checkpoint or run; tells classes and image size. Left out: random weights."""
    model_t: str | None = None
    """The teacher, where there is no --path_t (resnet32x4), or where that does not tell."""
    model_s: str = "resnet8x4"
    """The student (see `distillers list`)."""
    methods: tuple[str, ...] = ELEVEN
    """The losses, each beside cross-entropy as published."""
    protocol: Literal["simkd", "crd"] = "crd"
    """Whose published weights: simkd has the KL divergence beside every method."""
    num_classes: int | None = None
    """Left out: the checkpoint's, else 100."""
    image_size: int | None = None
    """Pixels on a side. Left out: the checkpoint's, else 32."""
    batch_size: int = 64
    """Images a step."""
    num_images: int = 50_000
    """Images of the training set: how long an epoch is, and the memory banks."""
    epochs: int = 240
    """Passes over the training set, for the hours of a whole training."""
    views: int = 4
    """Augmented views of each image that a cache holds."""
    compile: bool = False
    """Measure compiled steps too; making one takes a minute and more."""
    memory: bool = False
    """Measure the peak memory of every step too, each in a process of its own (Linux, CUDA)."""
    rounds: int = 5
    """Each measures everything once; what is told are medians over them."""
    gpu_id: str | None = None
    """The GPU to use, or "cpu". Left out: what there is."""
    threads: int | None = None
    """Threads on the CPU."""
    out: str | None = None
    """A JSON file for all figures."""

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the flag.
        """
        for name in ("batch_size", "num_images", "epochs", "views", "rounds"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name, least in (("num_classes", 2), ("image_size", 8), ("threads", 1)):
            value = getattr(self, name)
            require(name, value, value is None or value >= least, f"at least {least}")
        require("methods", self.methods, bool(self.methods), "at least one")
        folder = Path(self.out).parent if self.out else Path()
        require("out", self.out, folder.is_dir(), "a file in a folder that is there")


def main(args: Sequence[str]) -> None:
    """Print the tables and the advice."""
    config = parse(BenchConfig, args, "distillers bench")
    config = replace(config, methods=tuple(map(canonical_method, config.methods)))
    config.check()

    import tempfile

    import torch

    from distillers.cli import bench_table
    from distillers.files import write_atomically
    from distillers.losses import wiring
    from distillers.training import benchmark as bench
    from distillers.training import peak_memory as peak
    from distillers.training.loggers import environment
    from distillers.training.malloc import reuse_freed_memory

    for method in config.methods:
        wiring.find(method)
    if config.threads:
        torch.set_num_threads(config.threads)
    reuse_freed_memory()
    setting = setting_of(config)
    ways = bench.ways_on(setting.device, compiled=config.compile)
    figures = bench_table.Figures()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for method in config.methods:
            print(f"measuring {method}: {', '.join(ways)}", flush=True)
            figures.cache_bytes[method] = bench.cache_bytes(setting, method)
            if config.memory:
                figures.peaks[method] = {w: peak.peak_of(setting, method, w, folder) for w in ways}
            figures.rows[method] = bench.measure(setting, method, ways, config.rounds, folder)
            if config.out:  # after every method: they may take long, and be stopped
                about = {"settings": asdict(config), "environment": environment()}
                content = json.dumps(about | {"results": figures.plain()}, indent=1) + "\n"
                write_atomically(Path(config.out), content.encode())
    steps = -(-config.num_images // config.batch_size)
    training = bench_table.TrainingLength(steps, config.epochs, config.views)
    print("\n".join(bench_table.lines(figures, training)))


def setting_of(config: BenchConfig) -> "Setting":
    """What the flags say is to be measured.

    Raises:
        InputError: when a network cannot be had.
    """
    from functools import partial

    from distillers import models
    from distillers.checkpoints.load import load
    from distillers.distributed.rendezvous import device_of
    from distillers.training import benchmark as bench

    device = device_of((config.gpu_id,) if config.gpu_id else ())
    classes, side = config.num_classes, config.image_size
    path = config.path_t
    if path:
        card = load(
            path,
            model=config.model_t,
            num_classes=classes,
            image_size=side or 32,
            programs=False,
        ).card
        classes, side = card["num_classes"], side or card.get("image_size")
    classes, side = classes or 100, side or 32
    build = partial(models.create, num_classes=classes, image_size=side)
    if path:
        teacher = partial(bench.saved, path, config.model_t, side)
    else:
        teacher = partial(build, config.model_t or "resnet32x4")
    setting = bench.Setting(
        student=partial(build, config.model_s),
        teacher=teacher,
        image_size=side,
        num_classes=classes,
        batch_size=config.batch_size,
        num_images=config.num_images,
        device=device,
        protocol=config.protocol,
    )
    for make in (setting.student, setting.teacher):  # to know of a wrong name before measuring
        make()
    return setting
