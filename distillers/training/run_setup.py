"""Prepare a run from its flags: data, seeds, device and hyperparameters."""

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from distillers import data
from distillers.checkpoints.initial import build_initial, check_forward
from distillers.checkpoints.input_adapter import with_normalization
from distillers.config.data import NO_DATASET, DecodeOptions, check_dali
from distillers.config.hyperparameters import Hyperparameters
from distillers.config.train import InitialNetworkConfig, TrainConfig
from distillers.data.source import DataSource
from distillers.data.unlabelled import apply_label_options, only_unlabelled
from distillers.distillation import recipes
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.training.ddp import convert_sync_batchnorm
from distillers.training.memory import reuse_freed_memory


def load_data(config: TrainConfig, world: World, options: DecodeOptions) -> DataSource:
    """Load the dataset of a run; the first process of each machine downloads it.

    Raises:
        InputError: if it is not there, or --dali or --batch_size do not fit the processes.
    """
    check_dali(config.dali, world.device.type)
    batch_size_per_process(config, world)
    with world.local_rank0_first():
        source = open_data(config, options)
    return source.augmented(config.augmentation())


def open_data(config: TrainConfig, options: DecodeOptions) -> DataSource:
    """Open the data set of a run, with its images without labels; not augmented yet.

    Raises:
        InputError: if it is not there.
    """
    given = config.label_options()
    if config.dataset == NO_DATASET and given.unlabelled is not None:
        return only_unlabelled(Path(given.unlabelled), options)
    source = data.source_of(config.dataset, config.data_dir, config.download, options)
    return apply_label_options(source, given, config.on_bad_image)


def seed_everything(config: TrainConfig) -> None:
    """Seed the global generators with --trial, and set flags of the backends."""
    reuse_freed_memory()
    torch.manual_seed(config.trial)
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def batch_size_per_process(config: TrainConfig, world: World) -> int:
    """Return the number of images per step in each process.

    Raises:
        InputError: when --batch_size cannot be divided.
    """
    each, rest = divmod(config.batch_size, world.size)
    if rest or not each:
        sizes = sorted({max(each, 1) * world.size, (each + 1) * world.size})
        raise InputError(
            f"--batch_size {config.batch_size} cannot be divided among {world.size} processes; "
            f"take {' or '.join(map(str, sizes))}."
        )
    return each


def build_network(
    config: InitialNetworkConfig, source: DataSource, num_classes: int, world: World
) -> tuple[nn.Module, DataSource]:
    """Build the network to train, on its device; with `num_classes` 0 it has no classifier.

    Returns:
        the network; and the images with the normalization that its weights expect.

    Raises:
        InputError: if it cannot be built, or does not take the images.
    """
    initial = build_initial(
        config.network,
        config.pretrained,
        num_classes=num_classes,
        image_size=source.image_size,
        drop_path=config.drop_path,
        log=world.say,
    )
    source = with_normalization(source, initial.mean, initial.std)
    net = to_device(initial.net, config, world)
    check_forward(net, config.network, source.sample(world.device), num_classes)
    return net, source


def to_device(net: nn.Module, config: TrainConfig, world: World) -> nn.Module:
    """Move a network to its device, with SyncBatchNorm and checkpointing where asked for."""
    if config.grad_checkpointing:
        enable_checkpointing(net)
    net = convert_sync_batchnorm(net, world) if config.sync_bn else net
    return net.to(world.device)


def memory_format(config: TrainConfig) -> torch.memory_format:
    """Return the order of channels in memory that --channels_last asks for."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def enable_checkpointing(net: nn.Module) -> None:
    """Let a network recompute its activations in the backward pass."""
    try:
        cast(Any, net).set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise InputError(
            f"{type(net).__name__} cannot do --grad_checkpointing; many networks of timm can."
        ) from error


def print_start(networks: str, config: TrainConfig, folder: Path, world: World) -> None:
    """Print what is trained, on which data set and devices, and the folder of the run."""
    several = f"{world.size} processes, the first on " if world.size > 1 else ""
    world.say(f"{networks} on {config.dataset}, {several}{world.device}, into {folder}")


def build_hparams(config: TrainConfig, network: str, image_size: int) -> Hyperparameters:
    """Return the hyper-parameters; a --learning_rate that is left out is the published one."""
    rate = config.learning_rate or recipes.learning_rate(network, image_size)
    names = {field.name for field in dataclasses.fields(Hyperparameters)}
    same = {name: getattr(config, name) for name in names - {"learning_rate", "milestones"}}
    return Hyperparameters(learning_rate=rate, milestones=config.lr_decay_epochs, **same)
