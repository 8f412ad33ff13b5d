"""`distillers demo`: distillation in a few minutes, without internet or a GPU."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from distillers.config.flags import AT_LEAST_1, check_ranges
from distillers.config.parsing import parse
from distillers.config.student import canonical_method
from distillers.distillation.recipes import ELEVEN

if TYPE_CHECKING:
    from distillers.cli.demo import Result


@dataclass(frozen=True)
class DemoConfig:
    """Distil handwritten digits: the student has 50 labelled images, its teacher 1,297."""

    methods: tuple[str, ...] = ELEVEN
    """Methods to compare with the student trained alone."""
    seeds: Annotated[int, AT_LEAST_1] = 3
    """Repetitions of each method; each seed selects other labelled images."""
    out: str = "./demo"
    """Folder for the figure."""
    gpu_id: str | None = None
    """GPU index, or "cpu". Default: the first GPU if there is one."""


def main(args: Sequence[str]) -> None:
    """Train, print the results and plot them."""
    config = parse(DemoConfig, args, "distillers demo")
    config = replace(config, methods=tuple(map(canonical_method, config.methods)))
    check_ranges(config)

    from distillers.cli.demo import LABELLED, compare
    from distillers.cli.demo_figure import draw
    from distillers.distributed.rendezvous import device_of
    from distillers.losses import wiring

    for name in config.methods:
        wiring.find(name)
    path = Path(config.out) / "demo.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {line}", flush=True)

    device = device_of((config.gpu_id,) if config.gpu_id else ())
    say(f"digits, {device}: the teacher sees 1,297 labelled images, the students {LABELLED}")
    teacher, results, images = compare(["alone", *config.methods], range(config.seeds), device, say)
    print("\n" + table(teacher, results, images.test_images.shape[-1]))
    draw(path, teacher, results, images)
    print(f"\nfigure: {path}   ({time.monotonic() - start:.0f} s in all)")


def table(teacher: "Result", results: Sequence["Result"], size: int) -> str:
    """Format accuracy, size and latency of every deployed network as a table.

    Args:
        teacher: result of the teacher.
        results: one for each method, the student trained alone first.
        size: height and width of the images.
    """
    from distillers.cli.demo import STUDENT, TEACHER
    from distillers.models.profile import count_macs, count_parameters, latencies_ms

    head = f"{'':<22}{'accuracy %':>16}{'parameters':>12}{'MACs':>14}{'ms/image':>10}"
    lines = [head, "-" * len(head)]
    nets = {}
    for result in (teacher, *results):
        assert result.net is not None  # set by compare
        nets[result.name] = result.net.cpu()
    latencies = latencies_ms(nets, size)
    for result in (teacher, *results):
        net = nets[result.name]
        mean = statistics.mean(result.accuracies)
        sd = statistics.stdev(result.accuracies) if len(result.accuracies) > 1 else None
        accuracy = f"{mean:.1f}" + (f" ± {sd:.1f}" if sd is not None else "")
        name = TEACHER if result is teacher else STUDENT
        lines.append(
            f"{name + ' ' + result.name:<22}{accuracy:>16}{count_parameters(net):>12,}"
            f"{count_macs(net, size):>14,}{latencies[result.name]:>10.2f}"
        )
    alone = statistics.mean(results[0].accuracies)
    worse = [r.name for r in results[1:] if statistics.mean(r.accuracies) <= alone]
    if worse:
        lines.append(f"\nNot better than the student alone here: {', '.join(worse)}.")
    return "\n".join(lines)
