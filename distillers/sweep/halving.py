"""Successive halving of candidate students on one teacher cache.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016, https://arxiv.org/abs/1502.07943. Every rung has the same share of the budget; its
better half is trained further in the next one, each network from the weights that it has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillers.config.flags import PUBLISHED
from distillers.config.run_files import METRICS, dump_json, load_json, load_metrics
from distillers.config.sizes import pluralize
from distillers.errors import InputError
from distillers.files import file_name, write_atomically
from distillers.sweep.candidates import Limits, Measured, is_published
from distillers.sweep.driver import RunState, RunStatus, Sweep
from distillers.sweep.executors.local import LocalExecutor, Slots
from distillers.sweep.expand import Run, expand
from distillers.sweep.grid import Grid, Pair
from distillers.sweep.ledger import Ledger

FINALISTS = 2


@dataclass(frozen=True)
class Rung:
    """Number of candidates that are trained, and epochs of each."""

    size: int
    epochs: int


@dataclass(frozen=True)
class Plan:
    """The plan of a compression, kept in a file so that a later start continues it.

    Attributes:
        flags: of the command.
        teacher_ms: latency of the teacher's ONNX file.
        measured: all candidates.
        chosen: names of those that are trained.
        rungs: of the halving.
        minutes: estimated duration of training.
    """

    flags: dict[str, Any]
    teacher_ms: float
    measured: list[Measured]
    chosen: list[str]
    rungs: list[Rung]
    minutes: float

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_atomically(path, dump_json(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan.

        Raises:
            InputError: if it is damaged.
        """
        try:
            content, is_verified = load_json(path)
            content["measured"] = [Measured(**each) for each in content["measured"]]
            content["rungs"] = [Rung(**each) for each in content["rungs"]]
            plan = cls(**content)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it to start anew.") from error
        if not is_verified:
            raise InputError(f"{path} has no checksum, so it is not used; delete it to start anew.")
        return plan


def within_limits(measured: Sequence[Measured], limits: Limits) -> list[Measured]:
    """Return the candidates within the limits.

    Raises:
        InputError: if there is none; names the nearest.
    """
    usable = [each for each in measured if not each.problem]
    within = [each for each in usable if not each.exceeds(limits)]
    if within:
        return within
    if not usable:
        raise InputError(f"no candidate can be used; the first: {measured[0].problem}")
    nearest = min(usable, key=lambda each: each.excess_of(limits))
    raise InputError(
        f"no candidate is within the limits; the nearest is {nearest.name}: "
        f"{', '.join(nearest.exceeds(limits))}. Raise the limit, or name smaller networks with "
        "--candidates."
    )


def make_rungs(
    within: Sequence[Measured], num_images: int, minutes: float, seconds_per_image: float
) -> tuple[list[str], list[Rung], float]:
    """Decide which candidates are trained, and how long.

    Args:
        within: candidates, the more promising first.
        num_images: images of an epoch.
        minutes: budget of training.
        seconds_per_image: of decoding and of what else every candidate costs.

    Returns:
        Their names, the rungs, and the estimated minutes. The last candidates are left out until
        an epoch of all others fits into a rung's share.
    """
    kept = list(within)
    while True:
        sizes = _sizes(len(kept))
        costs = [num_images * (each.seconds_per_image + seconds_per_image) for each in kept]
        mean, share = sum(costs) / len(costs), 60 * minutes / len(sizes)
        epochs = [int(share / (mean * size)) for size in sizes]
        if epochs[0] >= 1 or len(kept) <= FINALISTS:
            break
        kept.pop()
    rungs = [Rung(size, max(1, count)) for size, count in zip(sizes, epochs, strict=True)]
    estimate = sum(rung.size * rung.epochs * mean for rung in rungs) / 60
    return [each.name for each in kept], rungs, estimate


def _sizes(count: int) -> list[int]:
    """Return the number of candidates in each rung: halved until there are `FINALISTS`."""
    sizes = [count]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, math.ceil(sizes[-1] / 2)))
    return sizes


@dataclass(frozen=True)
class Trained:
    """Results of a candidate after its last rung.

    Attributes:
        name: of the network.
        run: folder of its last run.
        accuracy: on held-out training images in percent; on test images if none are held out.
        rungs: number of rungs that it was in.
        epochs: number of epochs in all.
        minutes: that all its rungs took.
    """

    name: str
    run: Path
    accuracy: float
    rungs: int
    epochs: int
    minutes: float


def train(
    plan: Plan,
    teacher: str,
    save_dir: Path,
    fixed: Mapping[str, Any],
    slots: Slots,
) -> list[Trained]:
    """Train the candidates, and print their progress; runs that are done are not repeated.

    `fixed` has the flags of all runs, in the folder `save_dir`; `teacher` is a file.

    Returns:
        All candidates that could be trained, the best of the last rung first.
    """
    ledger = Ledger(save_dir)
    ledger.create()
    found: dict[str, Trained] = {}
    names = plan.chosen
    for number, rung in enumerate(plan.rungs, start=1):
        names = names[: rung.size]
        what = f"{pluralize(len(names), 'network')}, {pluralize(rung.epochs, 'epoch')} each"
        print(f"rung {number} of {len(plan.rungs)}: {what}", flush=True)
        pairs = tuple(Pair(teacher, name, _start(plan, name, found.get(name))) for name in names)
        flags = {**fixed, "epochs": rung.epochs}
        trials = (int(plan.flags["trial"]),)
        runs = expand(Grid(save_dir=str(save_dir), fixed=flags, pairs=pairs, trials=trials)).runs
        sweep = Sweep(runs, ledger, LocalExecutor(slots))
        sweep.run(_print_state)
        _check_done(sweep)
        for status in sweep.in_state(RunState.DONE):
            name = status.run.network
            found[name] = _after(status.run, found.get(name), number, rung.epochs)
        names = sorted(
            (name for name in names if name in found and found[name].rungs == number),
            key=lambda name: (-found[name].accuracy, plan.chosen.index(name)),
        )
    return sorted(found.values(), key=lambda each: (-each.rungs, -each.accuracy))


def _after(run: Run, before: Trained | None, number: int, epochs: int) -> Trained:
    """Return the results of a candidate after a rung, with the accuracy of its best epoch."""
    rows = load_metrics(run.folder / METRICS)[0]
    name = "val_acc" if "val_acc" in rows[-1] else "test_acc"
    accuracy = max(float(row[name]) for row in rows if name in row)
    minutes = 60 * float(load_json(run.folder / "summary.json")[0]["hours"])
    if before is not None:
        epochs, minutes = epochs + before.epochs, minutes + before.minutes
    return Trained(run.network, run.folder, accuracy, number, epochs, minutes)


def _start(plan: Plan, name: str, before: Trained | None) -> dict[str, str]:
    """Return the flag with the weights that a network starts or continues from."""
    if before is not None:
        return {"pretrained": str(before.run / f"{file_name(name)}_best.pth")}
    if plan.flags.get("pretrained") and is_published(name):
        return {"pretrained": PUBLISHED}
    return {}


def _print_state(_: Sweep, status: RunStatus | None) -> None:
    if status is not None:
        print(f"  {status.run.network}: {status.state}", flush=True)


def _check_done(sweep: Sweep) -> None:
    """Report runs that failed.

    Raises:
        InputError: if none has succeeded.
    """
    failed = sweep.in_state(RunState.FAILED, RunState.BLOCKED, RunState.STOPPED)
    for status in failed:
        last = (sweep.ledger.tail(status.run.folder) or [""])[-1]
        print(f"  {status.run.network} failed and is left out: {last}", flush=True)
    if not sweep.in_state(RunState.DONE):
        logs = sweep.ledger.folder / "logs"
        raise InputError(f"no candidate could be trained; their output is in {logs}.")
