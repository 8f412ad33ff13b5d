"""`distillers bench`: time a training step of each method, and recommend flags."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from distillers.config.flags import AT_LEAST_1, at_least, check_ranges, output_paths, require
from distillers.config.parsing import parse
from distillers.config.scoring import DeviceConfig
from distillers.config.student import canonical_method
from distillers.distillation.recipes import ELEVEN
from distillers.errors import unknown

if TYPE_CHECKING:
    from distillers.cli.bench_table import Measurements
    from distillers.training.benchmark import BenchmarkSetup


@dataclass(frozen=True, kw_only=True)
class BenchConfig(DeviceConfig):
    """Time a training step of each method for a pair of networks on this device.

    The plain step is that of most public code: an unmodified teacher, eager mode, fp32. Images are
    random; a cached step reads all teacher outputs from a cache.
    """

    path_t: str | None = None
    """Checkpoint or run folder of the teacher; sets classes and image size. Default: random
    weights."""
    model_t: str | None = None
    """Architecture of the teacher, if --path_t is not given or does not name it. Default:
    resnet32x4."""
    model_s: str = "resnet8x4"
    """Architecture of the student (see `distillers list`)."""
    methods: tuple[str, ...] = ELEVEN
    """Methods, each combined with cross-entropy as published."""
    protocol: Literal["simkd", "crd"] = "crd"
    """Published loss weights; simkd adds the KL divergence to every method."""
    num_classes: Annotated[int | None, at_least(2)] = None
    """Number of classes. Default: the checkpoint's, else 100."""
    image_size: Annotated[int | None, at_least(8)] = None
    """Height and width of the images in pixels. Default: the checkpoint's, else 32."""
    batch_size: Annotated[int, AT_LEAST_1] = 64
    """Images per step."""
    num_images: Annotated[int, AT_LEAST_1] = 50_000
    """Size of the training set; sets the steps per epoch and the size of memory banks."""
    epochs: Annotated[int, AT_LEAST_1] = 240
    """Epochs of the training whose duration is estimated."""
    views: Annotated[int, AT_LEAST_1] = 4
    """Augmented views of each image in a cache."""
    variants: tuple[str, ...] = ()
    """Kinds of steps to measure, as in plain default cached. Default: all."""
    compile: bool = False
    """Also measure compiled steps; compiling one takes a minute or more."""
    memory: bool = False
    """Also measure the peak memory of every step, each in a separate process (Linux, CUDA)."""
    cpu_time: bool = False
    """Measure the CPU time of this process instead of the time that passes, with --threads 1 on a
    busy machine."""
    rounds: Annotated[int, AT_LEAST_1] = 5
    """Measurements of each step; the median is printed."""
    threads: Annotated[int | None, AT_LEAST_1] = None
    """Number of CPU threads. Default: PyTorch's."""
    out: str | None = None
    """JSON file for all measurements."""

    def check(self) -> None:
        """Check the flags."""
        check_ranges(self)
        require("methods", self.methods, bool(self.methods), "at least one")


def main(args: Sequence[str]) -> None:
    """Print tables and recommendations."""
    config = parse(BenchConfig, args, "distillers bench")
    config = replace(config, methods=tuple(map(canonical_method, config.methods)))
    config.check()
    outputs = output_paths(config, ("out",))

    import torch

    from distillers.cli import bench_table
    from distillers.losses import wiring
    from distillers.timing import LoadMeter
    from distillers.training import benchmark as bench
    from distillers.training.memory import reuse_freed_memory

    for method in config.methods:
        wiring.find(method)
    if config.threads:
        torch.set_num_threads(config.threads)
    reuse_freed_memory()
    setup = build_setup(config)
    known = bench.variants_for(setup.device, compiled=config.compile)
    for variant in config.variants:
        if variant not in known:
            raise unknown("kind of step", variant, known)
    meter = LoadMeter()
    measurements = _measure(config, setup, list(config.variants) or known, outputs.get("out"))
    steps = -(-config.num_images // config.batch_size)
    training = bench_table.TrainingLength(steps, config.epochs, config.views)
    print("\n".join(bench_table.lines(measurements, training)))
    if note := meter.warning():
        print(f"WARNING: {note}; the ratios are of interleaved rounds, the times too long")


def _measure(
    config: BenchConfig, setup: "BenchmarkSetup", variants: list[str], out: Path | None
) -> "Measurements":
    """Measure all methods, and write what is known after each of them to `out`."""
    import tempfile

    from distillers.cli.bench_table import Measurements
    from distillers.files import write_json
    from distillers.training import benchmark as bench
    from distillers.training import peak_memory as peak
    from distillers.training.loggers import environment

    clock = time.process_time if config.cpu_time else time.perf_counter
    measurements = Measurements()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        for method in config.methods:
            print(f"measuring {method}: {', '.join(variants)}", flush=True)
            measurements.cache_bytes[method] = bench.cache_bytes(setup, method)
            if config.memory:
                measurements.peaks[method] = {
                    v: peak.step_peak_mib(setup, method, v, folder) for v in variants
                }
            measurements.rows[method] = bench.measure(
                setup, method, variants, config.rounds, folder, clock
            )
            if out:  # after every method, in case the benchmark is stopped
                about = {"settings": asdict(config), "environment": environment()}
                write_json(out, about | {"results": asdict(measurements)})
    return measurements


def build_setup(config: BenchConfig) -> "BenchmarkSetup":
    """Return the networks and data sizes to measure."""
    from functools import partial

    from distillers import models
    from distillers.checkpoints.load import load
    from distillers.distributed.rendezvous import device_of
    from distillers.training import benchmark as bench

    device = device_of(config.devices())
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
        teacher = partial(bench.load_network, path, config.model_t, side)
    else:
        teacher = partial(build, config.model_t or "resnet32x4")
    setup = bench.BenchmarkSetup(
        student=partial(build, config.model_s),
        teacher=teacher,
        image_size=side,
        num_classes=classes,
        batch_size=config.batch_size,
        num_images=config.num_images,
        device=device,
        protocol=config.protocol,
    )
    for create in (setup.student, setup.teacher):  # so that errors come before measuring
        create()
    return setup
