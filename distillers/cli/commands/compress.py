"""`distillers compress`: find, train and export the student that a device can run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from distillers.config.flags import AT_LEAST_1, FRACTION, NOT_NEGATIVE, POSITIVE, Fact, check_ranges
from distillers.config.parsing import parse
from distillers.config.sizes import pluralize
from distillers.errors import InputError

if TYPE_CHECKING:
    from distillers.checkpoints.load import Classifier
    from distillers.data.source import DataSource
    from distillers.sweep.candidates import Limits
    from distillers.sweep.executors.local import Slots
    from distillers.sweep.halving import Plan

# Flags that may differ when a compression is continued.
FREE = ("out", "dry_run", "jobs", "num_workers", "max_drop")


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """Find the best student of a teacher within the limits of a device, train it and export it."""

    path_t: Annotated[str, Fact.PATH]
    """Checkpoint or run folder of the teacher."""
    model_t: str | None = None
    """Architecture of the teacher, if its file does not name it."""
    data_dir: Annotated[str, Fact.PATH] = "./data"
    """Folder of the images."""
    dataset: str | None = None
    """Data set. Default: that of the teacher's training."""
    out: Annotated[str, Fact.PATH] = "./compress"
    """Folder for plan, runs, exported network and page; the same command continues there."""
    max_latency_ms: Annotated[float | None, POSITIVE] = None
    """Largest latency of one image in onnxruntime on this machine, in milliseconds."""
    max_mb: Annotated[float | None, POSITIVE] = None
    """Largest size of the ONNX file in 10^6 bytes."""
    max_macs: Annotated[float | None, POSITIVE] = None
    """Most multiply-accumulates for one image, in millions."""
    max_drop: Annotated[float | None, NOT_NEGATIVE] = None
    """Largest loss of accuracy against the teacher in percentage points; exit status 1 beyond."""
    minutes: Annotated[float, POSITIVE] = 60.0
    """Budget of training in minutes."""
    candidates: tuple[str, ...] = ()
    """Networks to try. Default: about 20 of timm, torchvision or, for small images, this library,
    those of the teacher's family first."""
    pretrained: bool = False
    """Candidates of timm and torchvision start from their published weights."""
    views: Annotated[int, AT_LEAST_1] = 4
    """Fixed augmented views of each training image in the teacher cache that all share."""
    val_fraction: Annotated[float, FRACTION] = 0.1
    """Fraction of the training images that is held out, to choose by; a folder without train/ and
    val/ gets its test images this way."""
    batch_size: Annotated[int, AT_LEAST_1] = 64
    """Images per step."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 2
    """Processes that decode images."""
    jobs: Annotated[int, AT_LEAST_1] = 1
    """Networks that are trained at once on a CPU."""
    trial: Annotated[int, NOT_NEGATIVE] = 0
    """Random seed."""
    dry_run: bool = False
    """Measure the candidates and print the plan, but train nothing."""

    def limits(self) -> "Limits":
        """Return the limits on the device."""
        from distillers.sweep.candidates import Limits

        return Limits(self.max_latency_ms, self.max_mb, self.max_macs)


def main(args: Sequence[str]) -> None:
    """Print the plan, train, export, and print the table and the choice."""
    config = parse(CompressConfig, args, "distillers compress")
    check_ranges(config)
    if not any(asdict(config.limits()).values()):
        raise InputError("give a limit: --max_latency_ms, --max_mb or --max_macs.")

    from distillers.checkpoints import onnx
    from distillers.checkpoints.load import best_checkpoint, load
    from distillers.sweep.halving import train

    onnx.require()
    path = best_checkpoint(Path(config.path_t).expanduser())
    teacher = load(path, model=config.model_t, programs=False)
    source = _open(config, teacher)
    out = Path(config.out).expanduser()
    plan = _plan(config, teacher, source, out)
    _print_plan(config, plan, out)
    if config.dry_run:
        return
    plan.save(out / "plan.json")
    trained = train(plan, str(path), out / "save", _fixed(config, source), _slots(config))
    from distillers.sweep.finish import finish

    finish(plan, trained, teacher, source, out, config.limits(), config.max_drop)


def _say(line: str) -> None:
    print(line, flush=True)


def _open(config: CompressConfig, teacher: "Classifier") -> "DataSource":
    """Open the data set and check that it has the teacher's classes."""
    from distillers import data
    from distillers.checkpoints.input_adapter import check_classes

    name = config.dataset or teacher.card.get("dataset")
    if name is None:
        raise InputError(f"{config.path_t} does not name its data set; give it with --dataset.")
    reading = data.DecodeOptions(
        image_size=teacher.card.get("image_size"),
        num_workers=config.num_workers,
        val_fraction=config.val_fraction,
    )
    source = data.source_of(name, config.data_dir, reading=reading)
    check_classes(teacher.card, source, config.path_t)
    if teacher.card["num_classes"] != source.num_classes:
        raise InputError(
            f"{config.path_t} has {teacher.card['num_classes']} classes, the data set has "
            f"{source.num_classes}."
        )
    return source


def _plan(config: CompressConfig, teacher: "Classifier", source: "DataSource", out: Path) -> "Plan":
    """Return the plan in the folder, or measure the candidates for a new one.

    Raises:
        InputError: if the folder has the plan of other flags, or no candidate is within the limits.
    """
    import time

    import torch

    from distillers.sweep.candidates import (
        default_candidates,
        fetch_weights,
        is_relative,
        measure,
    )
    from distillers.sweep.halving import Plan, make_rungs, within_limits

    flags: dict[str, Any] = {
        name: value for name, value in asdict(config).items() if name not in FREE
    }
    flags["candidates"] = list(config.candidates)
    if (out / "plan.json").exists():
        plan = Plan.load(out / "plan.json")
        changed = [name for name in flags if plan.flags.get(name) != flags[name]]
        if changed:
            raise InputError(
                f"{out} has a compression with another --{changed[0]} "
                f"({plan.flags.get(changed[0])}); continue it with the same flags, or name another "
                "folder with --out."
            )
        _say(f"continuing {out}")
        return plan
    if not config.dry_run:
        out.mkdir(parents=True, exist_ok=True)
    names = config.candidates or default_candidates(teacher.card["model"], source.image_size)
    count = pluralize(len(names), "candidate")
    _say(f"measuring {count} on this machine (onnxruntime, one image):")
    limits = config.limits()
    teacher_ms, measured = measure(names, teacher.net, source, limits)
    within = within_limits(measured, limits)
    if config.pretrained:
        fetch_weights([each.name for each in within], source)
    model = teacher.card["model"]
    within.sort(key=lambda each: (not is_relative(each.name, model), -each.macs))
    images = len(source.train_labels)
    start = time.perf_counter()
    loader = source.train_loader(
        min(config.batch_size, images), seed=0, drop_last=False, device=torch.device("cpu")
    )
    first = next(loader.epoch(1))
    decoding = (time.perf_counter() - start) / len(first.images)
    chosen, rungs, minutes = make_rungs(within, images, config.minutes, decoding)
    minutes += images * config.views * teacher_ms / 60_000  # the cache is filled once
    return Plan(flags, teacher_ms, measured, chosen, rungs, minutes)


def _print_plan(config: CompressConfig, plan: "Plan", out: Path) -> None:
    """Print what will be trained, how long it takes, and what is written."""
    limits = config.limits()
    within = [m.name for m in plan.measured if not m.problem and not m.exceeds(limits)]
    _say(f"the teacher takes {plan.teacher_ms:.2f} ms; {len(within)} candidates are in the limits")
    left_out = [name for name in within if name not in plan.chosen]
    if left_out:
        _say(f"left out, because the budget has no epoch for them: {', '.join(left_out)}")
    for number, rung in enumerate(plan.rungs, start=1):
        what = f"{pluralize(rung.size, 'network')}, {pluralize(rung.epochs, 'epoch')} each"
        _say(f"  rung {number}: {what}")
    _say(f"training takes about {plan.minutes:.0f} minutes (budget {config.minutes:g})")
    _say(
        f"writes {out}/: plan.json, save/ (runs, the teacher cache), student.onnx, compress.json, "
        "index.html; the same command continues it"
    )


def _fixed(config: CompressConfig, source: "DataSource") -> dict[str, Any]:
    """Return the flags of all runs."""
    architecture = {"model_t": config.model_t} if config.model_t else {}
    return {
        **architecture,
        "dataset": source.name,
        "data_dir": config.data_dir,
        "image_size": source.image_size,
        "recipe": "distil",
        "batch_size": min(config.batch_size, max(1, len(source.train_labels) // 2)),
        "val_fraction": config.val_fraction,
        "num_workers": config.num_workers,
        "teacher_cache": "auto",
        "views": config.views,
        "skip_validation": True,
    }


def _slots(config: CompressConfig) -> "Slots":
    """Return the places for runs: the GPUs, or --jobs on the CPU."""
    from distillers.config.cpus import usable_cpus
    from distillers.sweep.executors.local import divide_machine, selected_gpus

    gpus = selected_gpus(None)
    return divide_machine(gpus, usable_cpus(), 1, None if gpus else config.jobs, None)
