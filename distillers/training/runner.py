"""One training run: data, training loop, records and checkpoints."""

import contextlib
import dataclasses
import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from distillers import __version__
from distillers.config import recipes as recipe_flags
from distillers.config.data import NumViews
from distillers.config.hyperparameters import Precision, describe_hparams
from distillers.config.train import TrainConfig
from distillers.data.loaders.mixing import SoftLabelLoader
from distillers.data.source import BatchLoader
from distillers.distillation.cache.loader import CachedTeacherLoader, StoredOutputs
from distillers.distillation.task import Task
from distillers.distributed.world import World
from distillers.errors import InputError, first_line, shorten
from distillers.files import DISK_FULL
from distillers.training.autotune import choose, compile_cost
from distillers.training.class_weight import check_same_weights, class_weight_options
from distillers.training.evaluate import score
from distillers.training.images import Splits, check_same_images, describe
from distillers.training.memory import release_freed_memory
from distillers.training.preemption import PreemptionHandler, ignore
from distillers.training.probe import Agreement, Probe
from distillers.training.recorder import open_recorder
from distillers.training.run_dir import RunDir
from distillers.training.run_setup import batch_size_per_process, build_hparams, memory_format
from distillers.training.trainer import Hyperparameters, fit

# Attributes of a `Score` that are recorded after each epoch.
FIGURES = ("loss", "acc", "acc_top5", "balanced_acc", "macro_f1")


def train(
    config: TrainConfig,
    task: Task,
    splits: Splits,
    run_dir: RunDir,
    card: dict[str, Any],
    world: World,
    *,
    views: NumViews | None = None,
    caches: Sequence[StoredOutputs] = (),
    probe: Probe | Agreement | None = None,
) -> None:
    """Train a task, from the first epoch or from the state in `run_dir`, and write the run's files.

    Raises:
        InputError: if the disk is full or the folder cannot be written.
        NonFiniteLossError: if the loss is not finite.
        PreemptedError: if a signal stopped the run; its state was saved.
        PeerLostError: if other processes do not respond.
    """
    for line in describe(splits, config.batch_size):
        world.say(line)
    for line in config.augmentation().describe(task.reads_strong):
        world.say(line)
    card = {**card, **_check_same_run(config, splits, run_dir, world)}
    loader = _training_loader(config, task, splits, world, views)
    for cache in caches:
        loader = CachedTeacherLoader(loader, cache)
    loader = _with_soft_labels(loader, config, splits)
    task.to(memory_format=memory_format(config))  # the fused copy of the teacher, too
    if world.rank:  # rank 0 draws what a single process would draw
        seeds = np.random.SeedSequence([config.trial, world.rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
    hparams = build_hparams(config, run_dir.name, splits.test.image_size)
    if hparams.precision == "auto":
        hparams = dataclasses.replace(
            hparams, precision=_precision(task, loader, hparams, run_dir, world)
        )
    if config.recipe:
        world.say(recipe_flags.describe(config))
    world.say(describe_hparams(hparams, config.batch_size, len(loader)))
    with _explain_errors():
        if hparams.compile and world.size == 1 and run_dir.state is None:
            batch = next(iter(loader.epoch(1)))
            world.say(str(compile_cost(task, batch, hparams, len(loader))))
        _fit_and_record(config, task, loader, hparams, splits, run_dir, card, world, probe)


def _check_same_run(
    config: TrainConfig, splits: Splits, run_dir: RunDir, world: World
) -> dict[str, Any]:
    """Check that all processes, and an interrupted run, have the same images, weights and flags.

    Returns:
        the digest of the images and the weights of the classes, for the card.
    """
    digest = splits.test.digest()  # of the whole data set
    versions = f"distillers {__version__}, PyTorch {torch.__version__}"
    world.check_same(
        {"images or labels": digest, "flags": run_dir.folder.name, "versions": versions}
    )
    check_same_images(run_dir, digest)
    weights = class_weight_options(config, splits).get("class_weight")
    check_same_weights(run_dir, weights)
    return {"images": digest, "class_weight": weights and list(weights)}


def _training_loader(
    config: TrainConfig, task: Task, splits: Splits, world: World, views: NumViews | None
) -> BatchLoader:
    return splits.train.train_loader(
        batch_size_per_process(config, world),
        seed=config.trial,
        drop_last=drops_last(config, task, len(splits.train.train_labels), world),
        device=world.device,
        shard=world.shard,
        views=views,
        balanced=config.balanced_sampling,
        second_view=task.reads_strong,
    )


def _with_soft_labels(loader: BatchLoader, config: TrainConfig, splits: Splits) -> BatchLoader:
    """Return a loader that mixes images or smooths labels if --label_loss is not cross-entropy."""
    if config.label_loss == "ce":
        return loader
    return SoftLabelLoader(
        loader,
        config.soft_labels(),
        num_classes=splits.train.num_classes,
        seed=config.trial,
        num_epochs=config.epochs,
    )


def _fit_and_record(
    config: TrainConfig,
    task: Task,
    loader: BatchLoader,
    hparams: Hyperparameters,
    splits: Splits,
    run_dir: RunDir,
    card: dict[str, Any],
    world: World,
    probe: Probe | Agreement | None,
) -> None:
    """Run the training loop; the first process records every epoch."""
    tests = {splits.test.test_part: splits.test.test_loader(world.device, world.shard)}
    if splits.val:
        tests["val"] = splits.val.test_loader(world.device, world.shard)
    done = -task.warmup_epochs if run_dir.done is None else run_dir.done
    with contextlib.ExitStack() as stack:
        recorder = None
        if world.is_first:
            opened = open_recorder(config, run_dir, card, hparams, len(loader), done)
            recorder = stack.enter_context(opened)
        save = recorder.pause if recorder else ignore
        should_stop = recorder.is_exhausted if recorder else bool
        preemption = PreemptionHandler(world, save, config.save_minutes)
        with preemption.listening():
            deployed = fit(
                task,
                loader,
                hparams,
                evaluate=lambda net: evaluate_on_splits(net, tests, world, preemption, probe),
                on_epoch_end=recorder.on_epoch_end if recorder else ignore,
                on_log=recorder.progress.batch if recorder else ignore,
                resumed=run_dir.state.trainer if run_dir.state else None,
                world=world,
                preemption=preemption,
                should_stop=should_stop if config.patience else None,
            )
        if recorder:
            recorder.finish(deployed)
            world.say(recorder.outcome())


def drops_last(config: TrainConfig, task: Task, num_images: int, world: World) -> bool:
    """Return whether to drop the last, smaller batch of an epoch.

    It is dropped if the protocol or a loss needs full batches, and with a message if it would give
    batch normalization a single image.
    """
    if config.as_published_by_simkd or task.full_batches:
        return True
    left = num_images % config.batch_size
    least = max(2, world.size) if config.sync_bn else 2 * world.size
    few = 0 < left < least <= config.batch_size and uses_batch_statistics(task)
    if few:
        what = "image of an epoch is" if left == 1 else f"{left} images of an epoch are"
        world.say(f"the last {what} left out, too few for batch statistics")
    return few


def uses_batch_statistics(task: nn.Module) -> bool:
    """Return whether a task has batch normalization that uses batch statistics in training."""
    layers = nn.modules.batchnorm._BatchNorm
    return any(isinstance(m, layers) and m.training for m in task.train().modules())


def _precision(
    task: Task, loader: BatchLoader, hparams: Hyperparameters, run_dir: RunDir, world: World
) -> Precision:
    """Return the precision of the run that is resumed, else the fastest one on this device."""
    if run_dir.state:
        return run_dir.state.trainer.precision
    choice = choose(task, next(iter(loader.epoch(1))), hparams)
    chosen = world.broadcast_object([choice.precision, str(choice)])
    world.say(chosen[1])
    return chosen[0]


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    """Turn errors of writing files and of compiling into an `InputError` with what to do."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = shorten(first_line(error))
        raise InputError(
            f"--compile failed: {why}. Leave it out, or, if the disk is full, set TMPDIR to a "
            "folder with room."
        ) from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InputError(
                f"the disk is full: {error}. The checkpoints written before are whole; make room "
                "and go on with --resume."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise InputError(f"the run folder cannot be written: {error}.") from error
        raise


def evaluate_on_splits(
    net: nn.Module,
    tests: Mapping[str, BatchLoader],
    world: World | None = None,
    preemption: PreemptionHandler | None = None,
    probe: Probe | Agreement | None = None,
) -> dict[str, float]:
    """Return `test_loss`, `test_acc` and the other `FIGURES`; of `val`, too, if it is there."""
    figures: dict[str, float] = {}
    release_freed_memory()
    if isinstance(probe, Agreement):
        return probe.figures(net, world or World())
    if probe:
        net = probe.classifier(net, world or World())
    for name, loader in tests.items():
        batches = loader.epoch(1)
        each = score(net, preemption.stoppable(batches) if preemption else batches, world)
        figures |= {f"{name}_{key}": getattr(each, key) for key in FIGURES}
    release_freed_memory()
    return figures
