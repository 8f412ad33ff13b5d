"""Runs on several processes report what one process counts, for any number of test images."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distillers import data, models
from distillers.checkpoints.card import create_card
from distillers.checkpoints.load import load
from distillers.config.teacher import TeacherConfig
from distillers.data.datasets.images import ImageSet
from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.losses import CE
from distillers.training import run_setup
from distillers.training import runner as run
from distillers.training.evaluate import score
from distillers.training.images import split_images
from distillers.training.run_dir import resolve_run_dir
from tests.nets import make_batch
from tests.processes import together

SIZES = (357, 358, 359)
CONFIG = TeacherConfig(
    dataset="digits", model="tests.nets:tiny", batch_size=96, epochs=3, protocol="crd", gpu_id="cpu"
)


def digits(size: int) -> ImageSet:
    """The digits with so many test images."""
    whole = data.load("digits")
    return replace(
        whole, test_images=whole.test_images[:size], test_labels=whole.test_labels[:size]
    )


def train(size: int, world: World) -> None:
    source, config = digits(size), replace(CONFIG, save_dir=f"{size}")
    place = resolve_run_dir(config.folder(), config.model, config, world)
    run_setup.seed_everything(config)
    net = models.create(config.model, num_classes=10, image_size=32)
    card = create_card(config.model, source, channels_last=config.channels_last)
    run.train(config, Supervised(net, CE()), split_images(source, config), place, card, world)


def train_all(folder: str) -> None:
    os.chdir(folder)
    for size in SIZES:
        train(size, World(dist.get_rank(), dist.get_world_size(), dist.get_rank()))


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow),
                                       pytest.param(4, marks=pytest.mark.slow)])  # fmt: skip
def test_what_is_reported_is_what_one_process_counts(processes, tmp_path):
    together(processes, train_all, str(tmp_path))
    for size in SIZES:
        (path,) = Path(tmp_path / str(size)).rglob("*_best.pth")
        payload = torch.load(path, weights_only=True)
        net = load(path, model=CONFIG.model).net
        found = score(net, digits(size).test_loader(torch.device("cpu")).epoch(1))
        assert found.total == size
        assert found.acc == payload["best_acc"]
        assert round(payload["best_acc"] * size / 100, 9) == found.correct


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x: torch.zeros(len(x), 1), r"1 classes, but an image has the label [2-4]"),
        (lambda x: torch.zeros(len(x), 5, 1, 1), r"returns \(6, 5, 1, 1\) for 6 images"),
        (lambda _: torch.zeros(5), r"returns \(5,\) for 6 images"),
        (lambda x: (torch.zeros(len(x), 5),), "returns tuple for 6 images; it must return logits"),
    ],
)
def test_what_are_no_logits_of_the_classes_is_refused(output, words):
    class Net(torch.nn.Module):
        def forward(self, images):
            return output(images)

    with pytest.raises(InputError, match=words):
        score(Net(), [make_batch()])
