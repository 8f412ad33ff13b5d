"""Candidate students of `distillers compress`, and what each costs on this machine."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from distillers import models
from distillers.checkpoints.load import Classifier
from distillers.checkpoints.onnx import OnnxNetwork, write
from distillers.data.source import DataSource
from distillers.errors import InputError, first_line
from distillers.losses import CE
from distillers.models.profile import count_macs, count_parameters, latencies_ms
from distillers.timing import LoadMeter, time_interleaved

# The default candidates by family, from small to large.
FAMILIES = {
    "mobilenetv3": (
        *("timm:tf_mobilenetv3_small_minimal_100", "timm:mobilenetv3_small_050"),
        *("timm:mobilenetv3_small_075", "timm:mobilenetv3_small_100", "timm:mobilenetv3_large_100"),
    ),
    "lcnet": ("timm:lcnet_050", "timm:lcnet_075", "timm:lcnet_100"),
    "mobilenetv2": ("timm:mobilenetv2_035", "timm:mobilenetv2_050", "timm:mobilenetv2_100"),
    "shufflenet": ("torchvision:shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x1_0"),
    "resnet": ("timm:resnet10t", "timm:resnet14t", "timm:resnet18", "timm:resnet34"),
    "regnet": ("timm:regnetx_002", "timm:regnety_002"),
    "efficientnet": ("timm:tf_efficientnet_lite0", "timm:efficientnet_b0"),
}
SMALL_FAMILIES = {  # for images of at most `SMALL_IMAGE` pixels
    "resnet": ("resnet8", "resnet14", "resnet20", "resnet32", "resnet8x4", "resnet32x4"),
    "wrn": ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    "vgg": ("vgg8", "vgg11", "vgg13"),
    "mobilenet": ("MobileNetV2", "MobileNetV2_1_0"),
    "shuffle": ("ShuffleV1", "ShuffleV2", "ShuffleV2_1_5"),
}
SMALL_IMAGE = 64
BATCH = 16  # images of a timed training step


@dataclass(frozen=True)
class Limits:
    """Limits of the student on the device; None for none.

    Attributes:
        latency_ms: for one image in onnxruntime on this machine.
        mb: size of the ONNX file in 10^6 bytes.
        macs: multiply-accumulates for one image in millions.
    """

    latency_ms: float | None = None
    mb: float | None = None
    macs: float | None = None


@dataclass(frozen=True)
class Measured:
    """Costs of a candidate.

    Attributes:
        name: of the network.
        latency_ms: median of one image in onnxruntime; 0 if it was not measured.
        file_bytes: of its ONNX file; of its parameters if it was not exported.
        macs: multiply-accumulates for one image.
        parameters: number of parameters.
        seconds_per_image: of a training step without the teacher; 0 if it was not measured.
        problem: why it is no candidate, or "".
    """

    name: str
    latency_ms: float = 0.0
    file_bytes: int = 0
    macs: int = 0
    parameters: int = 0
    seconds_per_image: float = 0.0
    problem: str = ""

    def exceeds(self, limits: Limits) -> list[str]:
        """Return which limits it exceeds, with its figures."""
        each = self._limited(limits)
        return [f"{name} {value:.3g} of {limit:g}" for name, value, limit in each if value > limit]

    def excess_of(self, limits: Limits) -> float:
        """Return the largest ratio of a figure to its limit."""
        return max((value / limit for _, value, limit in self._limited(limits)), default=0.0)

    def _limited(self, limits: Limits) -> list[tuple[str, float, float]]:
        """Return name, figure and limit of each cost that has a limit."""
        found = (
            ("latency_ms", self.latency_ms, limits.latency_ms),
            ("mb", self.file_bytes / 1e6, limits.mb),
            ("macs", self.macs / 1e6, limits.macs),
        )
        return [(name, value, limit) for name, value, limit in found if limit is not None]


def default_candidates(teacher: str, image_size: int) -> list[str]:
    """Return the default candidates for images of a size in pixels, the teacher's family first."""
    families = SMALL_FAMILIES if image_size <= SMALL_IMAGE else FAMILIES
    own = [family for family in families if family in teacher.lower()]
    order = [*own, *(family for family in families if family not in own)]
    return [name for family in order for name in families[family] if name != teacher]


def is_relative(name: str, teacher: str) -> bool:
    """Return whether a network is of the teacher's family."""
    families = {**FAMILIES, **SMALL_FAMILIES}
    return any(family in name.lower() and family in teacher.lower() for family in families)


def is_published(name: str) -> bool:
    """Return whether timm or torchvision publish weights of a network."""
    return name.startswith(("timm:", "torchvision:"))


def fetch_weights(names: Sequence[str], source: DataSource) -> None:
    """Fetch the published weights of candidates before training starts.

    Raises:
        InputError: if they cannot be had.
    """
    published = [name for name in names if is_published(name)]
    for name in published:
        models.create(name, source.num_classes, source.image_size, pretrained=True)
    print(f"{len(published)} of {len(names)} candidates start from published weights", flush=True)


def measure(
    names: Sequence[str], teacher: nn.Module, source: DataSource, limits: Limits
) -> tuple[float, list[Measured]]:
    """Measure the teacher's latency in onnxruntime and the costs of candidates, and print them.

    Candidates that exceed the limits on size or MACs are not exported, and only those within all
    limits are timed in training. The forwards of all, on the CPU, are interleaved.

    Returns:
        The teacher's latency in milliseconds, and the candidates in the order of `names`.
    """
    images = source.sample(torch.device("cpu"))
    found: dict[str, Measured] = {}
    nets: dict[str, nn.Module] = {}
    work = {}
    with tempfile.TemporaryDirectory(prefix="distillers-compress-") as folder:
        work[""] = (_exported(teacher, images, Path(folder) / "teacher.onnx"), images.shape[-1], 1)
        for number, name in enumerate(names):
            path = Path(folder) / f"{number}.onnx"
            found[name], nets[name] = _size(name, source)
            if found[name].problem or found[name].exceeds(limits):
                continue
            try:
                work[name] = (_exported(nets[name], images, path), images.shape[-1], 1)
            except InputError as error:
                found[name] = Measured(name, problem=str(error))
                continue
            found[name] = replace(found[name], file_bytes=path.stat().st_size)
        meter = LoadMeter()
        latency = latencies_ms(work)
        if busy := meter.warning():
            print(
                f"WARNING: {busy}: latencies are too high, so fewer candidates may be in the limits"
            )
    for name, each in found.items():
        timed = replace(each, latency_ms=latency.get(name, 0.0))
        if name in latency and not timed.exceeds(limits):
            timed = replace(timed, seconds_per_image=_seconds_per_image(nets[name], images, source))
        found[name] = timed
        print(f"  {name:<42}{describe(timed, limits)}", flush=True)
    return latency[""], list(found.values())


def describe(measured: Measured, limits: Limits) -> str:
    """Return the costs of a candidate, and why it is left out."""
    if measured.problem:
        return measured.problem
    size = f"{measured.file_bytes / 1e6:8.2f} MB{measured.macs / 1e6:9.1f} M MACs"
    latency = f"{measured.latency_ms:8.2f} ms" if measured.latency_ms else f"{'':11}"
    exceeded = measured.exceeds(limits)
    return f"{latency}{size}" + (f"  exceeds {', '.join(exceeded)}" if exceeded else "")


def _size(name: str, source: DataSource) -> tuple[Measured, nn.Module]:
    """Build a candidate and count its parameters and MACs."""
    try:
        net = models.create(name, source.num_classes, source.image_size).eval()
        macs = count_macs(net, source.image_size)
    except (InputError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        return Measured(name, problem=f"cannot be built for these images: {reason}"), nn.Identity()
    parameters = count_parameters(net)
    return Measured(name, 0.0, 4 * parameters, macs, parameters), net


def _exported(net: nn.Module, images: Tensor, path: Path) -> OnnxNetwork:
    write(Classifier(net, {}), {}, path, images)
    return OnnxNetwork(path)


def _seconds_per_image(net: nn.Module, images: Tensor, source: DataSource) -> float:
    """Time a training step, without the teacher."""
    batch = images[:1].repeat(BATCH, 1, 1, 1)
    labels = torch.arange(BATCH) % source.num_classes
    net.train()

    def step() -> None:
        CE()(net(batch), labels).backward()

    seconds = time_interleaved({"step": step}, 2, torch.device("cpu"))
    return min(seconds["step"]) / BATCH
