"""Several processes that train one task have the losses, gradients and state of one process."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distillers import models
from distillers.config.hyperparameters import SHARDABLE, Hyperparameters
from distillers.config.student import StudentConfig
from distillers.data.batch import Batch
from distillers.distillation import loss_weights as weights
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from distillers.training.fsdp import full_state
from distillers.training.trainer import Trainer
from tests.processes import together

BATCH, SIDE, STEPS, CLASSES = 12, 8, 5, 5
LABELS = torch.arange(60) % CLASSES
HPARAMS = Hyperparameters(epochs=1, learning_rate=0.01, clip_grad=50.0)


def task_of(method: str, world_size: int, dtype: torch.dtype = torch.float64) -> Distillation:
    """A method on two small networks, batch normalization frozen: there processes do differ."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=dtype)
    student, teacher = (
        models.create(name, num_classes=CLASSES, image_size=SIDE).to(dtype)
        for name in ("resnet8", "resnet14")
    )
    flags = StudentConfig(path_t="x", distill=method)
    chosen = weights.choose(flags)
    options = {"crd": {"negatives": 20}, "rrd": {"queue_size": 40}}
    task = distil(
        student,
        teacher,
        chosen.terms(),
        images=images,
        train_labels=LABELS,
        batch_size=BATCH // world_size,
        options={k: v for k, v in options.items() if k == method},
    ).to(dtype)
    task.train()
    for module in task.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return task


def batch_of(
    step: int, world: World, dtype: torch.dtype = torch.float64, uneven: bool = False
) -> Batch:
    """This process's part of a batch; if uneven, the first process has more images."""
    generator = torch.Generator().manual_seed(step)
    index = torch.randperm(len(LABELS), generator=generator)[:BATCH]
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator, dtype=dtype)
    counts = (BATCH // world.size,) * world.size
    if uneven and world.size > 1:
        counts = (counts[0] + 2, *counts[1:-1], counts[-1] - 2)
    first = sum(counts[: world.rank])
    rows = slice(first, first + counts[world.rank])
    counts = counts if world.size > 1 else ()
    labels, strong = LABELS[index[rows]], images[rows].flip(-1) / 2
    return Batch(images[rows], labels, index[rows], rows_per_rank=counts, strong=strong)


def trained(
    method: str,
    world: World,
    hparams: Hyperparameters = HPARAMS,
    dtype: torch.dtype = torch.float64,
    uneven: bool = False,
) -> dict:
    """The losses and gradients of some steps, and the state after them."""
    trainer = Trainer(task_of(method, world.size, dtype), hparams, world)
    seen: list[dict] = []
    for step in range(STEPS):
        batch = batch_of(step, world, dtype, uneven)
        loss = trainer.backward(batch, 0.5).loss.detach() * batch.share
        names = trainer.task.named_parameters()
        grads = full_state({name: p.grad for name, p in names if p.grad is not None})
        seen.append(
            {
                "loss": world.sum(loss.clone()) / world.size,
                **{k: v.clone() for k, v in grads.items()},
            }
        )
        trainer.optimizer_step()
    return {"steps": seen, "state": full_state(trainer.task.state_dict())}


def compare(
    hparams: Hyperparameters, dtype: torch.dtype, methods: tuple[str, ...], uneven: bool = False
) -> None:
    world = World(dist.get_rank(), dist.get_world_size(), dist.get_rank())
    for method in methods:
        found = trained(method, world, hparams, dtype, uneven)
        if world.is_first:
            torch.save(found, f"{method}.pt")
        else:  # what the others hold is the same
            assert len(found["steps"]) == STEPS
        for name, value in found["state"].items():
            everywhere = world.gather(value)
            assert all(torch.equal(each, everywhere[0]) for each in everywhere), (method, name)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_all_methods_learn_the_same_in_one_process_and_in_several(size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    together(size, compare, HPARAMS, torch.float64, recipes.ELEVEN)
    for method in recipes.ELEVEN:
        expected = trained(method, World())
        close(torch.load(f"{method}.pt"), expected, 1e-9, method)


def test_two_views_learn_the_same_in_one_process_and_in_several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    together(2, compare, HPARAMS, torch.float64, ("crld",), True)
    close(torch.load("crld.pt"), trained("crld", World()), 1e-9, "crld")


def test_processes_with_more_images_than_others_learn_what_one_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = tuple(method for method in recipes.ELEVEN if method != "semckd")
    together(2, compare, HPARAMS, torch.float64, methods, True)
    for method in methods:
        close(torch.load(f"{method}.pt"), trained(method, World()), 1e-9, method)


def test_divided_weights_learn_what_whole_ones_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = ("crd", "simkd", "dcd", "vid")
    together(2, compare, replace(HPARAMS, shard=True), torch.float32, methods)
    for method in methods:
        expected = trained(method, World(), dtype=torch.float32)
        close(torch.load(f"{method}.pt"), expected, 1e-6, method)


UPDATES = Hyperparameters(1, 1e-4, clip_grad=1e-3, clip_mode="value")


def sharded_optimizers() -> None:
    world = World(dist.get_rank(), dist.get_world_size(), dist.get_rank())
    for opt in SHARDABLE:
        hparams = replace(UPDATES, opt=opt, shard=True)
        found = trained("dcd", world, hparams, torch.float32)
        if world.is_first:
            torch.save(found, f"{opt}.pt")


def test_optimizers_update_sharded_weights_as_whole_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    together(2, sharded_optimizers)
    for opt in SHARDABLE:
        expected = trained("dcd", World(), replace(UPDATES, opt=opt), torch.float32)
        close(torch.load(f"{opt}.pt"), expected, 1e-5, opt)


def close(found: dict, expected: dict, tolerance: float, method: str) -> None:
    assert found["state"].keys() == expected["state"].keys()
    for mine, its in zip(found["steps"], expected["steps"], strict=True):
        assert mine.keys() == its.keys(), method
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{method}: {text}"
    )
