"""`distillers demo`: distillation in about a minute, without internet or a GPU."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from distillers.config.flags import AT_LEAST_1, check_ranges
from distillers.config.parsing import parse
from distillers.config.scoring import DeviceConfig
from distillers.config.student import canonical_method
from distillers.distillation.recipes import ELEVEN
from distillers.errors import InputError

if TYPE_CHECKING:
    from distillers.cli.demo import ExportedPair, Result

METHODS = ("kd", "rrd", "simkd")


@dataclass(frozen=True)
class DemoConfig(DeviceConfig):
    """Distill handwritten digits: the student has 50 labelled images, its teacher 1,297."""

    methods: tuple[str, ...] = METHODS
    """Methods to compare with the student trained alone."""
    all: bool = False
    """Compare all eleven documented methods."""
    seeds: Annotated[int, AT_LEAST_1] = 3
    """Repetitions of each method; each seed selects other labelled images."""
    out: str = "./demo"
    """Folder for the figure and the exported networks."""


def main(args: Sequence[str]) -> None:
    """Train, print the results, plot them, and export the teacher and the best student."""
    config = parse(DemoConfig, args, "distillers demo")
    check_ranges(config)
    if config.all and config.methods != METHODS:
        raise InputError("--all and --methods exclude each other; leave one out.")
    methods = ELEVEN if config.all else config.methods
    config = replace(config, methods=tuple(map(canonical_method, methods)))

    from distillers.cli.demo import LABELLED, compare, export_pair
    from distillers.cli.demo_figure import draw
    from distillers.distributed.rendezvous import device_of
    from distillers.losses import wiring

    for name in config.methods:
        wiring.find(name)
    folder = Path(config.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {line}", flush=True)

    device = device_of(config.devices())
    say(f"digits, {device}: the teacher sees 1,297 labelled images, the students {LABELLED}")
    teacher, results, images = compare(["alone", *config.methods], range(config.seeds), device, say)
    print("\n" + table(teacher, results, images.image_size))
    best = max(results[1:], key=lambda r: r.stats.mean, default=results[0])
    draw(folder / "demo.png", teacher, results, images)
    files = export_pair(folder, teacher, best, images)
    print("\n" + describe_files(files))
    print(f"\nfigure: {folder / 'demo.png'}   ({time.monotonic() - start:.0f} s in all)")
    print(f"next: distillers evaluate {files.student} --path_t {files.teacher}")


def table(teacher: "Result", results: Sequence["Result"], size: int) -> str:
    """Format accuracy, gain over the student alone, and cost of every deployed network.

    `results` begins with the student trained alone; `size` is the height and width of the images.
    """
    from distillers.cli.demo import STUDENT, TEACHER
    from distillers.models.profile import count_macs, count_parameters

    head = f"{'':<18}{'accuracy %':>14}{'gain over alone':>28}{'parameters':>12}{'MACs':>13}"
    lines = [head, "-" * len(head)]
    for result in (teacher, *results):
        assert result.net is not None  # set by compare
        net, stats = result.net.cpu(), result.stats
        accuracy = f"{stats.mean:.1f}" + (f" ± {stats.sd:.1f}" if stats.sd is not None else "")
        gain = "" if result in (teacher, results[0]) else _gain(result, results[0])
        name = TEACHER if result is teacher else STUDENT
        lines.append(
            f"{name + ' ' + result.name:<18}{accuracy:>14}{gain:>28}"
            f"{count_parameters(net):>12,}{count_macs(net, size):>13,}"
        )
    alone = results[0].stats.mean
    worse = [r.name for r in results[1:] if r.stats.mean <= alone]
    if worse:
        lines.append(f"\nNot better than the student alone here: {', '.join(worse)}.")
    return "\n".join(lines)


def _gain(result: "Result", alone: "Result") -> str:
    """Return the mean gain over the student alone, and its 95 % interval."""
    from distillers.cli.demo import paired_gain

    gains = paired_gain(result, alone)
    ends = gains.interval
    return f"{gains.mean:+.1f}" + (f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else "")


def describe_files(files: "ExportedPair") -> str:
    """Return lines with the files of both networks, their sizes and latencies."""
    lines = [f"{'':<30}{'bytes':>12}{'ms/image':>10}   ({files.runtime})"]
    lines += [
        f"{path!s:<30}{path.stat().st_size:>12,}{milliseconds:>10.3f}"
        for path, milliseconds in files.latencies.items()
    ]
    size = files.teacher.stat().st_size / files.student.stat().st_size
    speed = files.latencies[files.teacher] / files.latencies[files.student]
    lines.append(f"the student with {files.method} is {size:.1f} x smaller, {speed:.1f} x faster")
    return "\n".join(lines)
