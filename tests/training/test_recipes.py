"""Options of today's recipes, end to end: stochastic depth, checkpointing, early stopping."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist

from distillers import data, models
from distillers.checkpoints.card import create_card
from distillers.cli import main as cli
from distillers.config.teacher import TeacherConfig
from distillers.distillation.build import distil
from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.losses import CE
from distillers.training.images import split_images
from distillers.training.run_dir import resolve_run_dir
from distillers.training.run_setup import enable_checkpointing, seed_everything
from distillers.training.runner import train
from tests.nets import Small, make_batch
from tests.processes import together

DIGITS = ["--dataset", "digits", "--batch_size", "256", "--gpu_id", "cpu"]


def drop_rates(net: torch.nn.Module) -> list[float]:
    return [m.drop_prob for m in net.modules() if isinstance(m, timm.layers.DropPath)]


def test_networks_are_built_with_stochastic_depth():
    net = models.create("timm:test_vit", num_classes=5, image_size=32, drop_path=0.3)
    assert max(drop_rates(net)) == pytest.approx(0.3)
    plain = models.create("timm:test_vit", num_classes=5, image_size=32)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert not drop_rates(plain)
    other = models.create("torchvision:convnext_tiny", num_classes=5, drop_path=0.4)
    assert max(getattr(m, "p", 0.0) for m in other.modules()) == 0.4


@pytest.mark.parametrize("name", ["resnet8", "timm:vgg11", "torchvision:resnet18"])
def test_networks_without_stochastic_depth_are_refused(name):
    with pytest.raises(InputError, match=f"{name} has no stochastic depth; leave out --drop_path"):
        models.create(name, num_classes=5, drop_path=0.1)


def gradients(checkpointed: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    student, teacher = (
        models.create("timm:test_vit", num_classes=5, image_size=32, drop_path=0.2)
        for _ in range(2)
    )
    if checkpointed:
        enable_checkpointing(student)
    images = torch.randn(2, 3, 32, 32)
    weights = {"ce": 1.0, "kd": 1.0, "at": 10.0, "rkd": 1.0}
    task = distil(student, teacher, weights, images=images).train()
    torch.manual_seed(1)
    task(make_batch(size=32)).loss.backward()
    return [p.grad for p in task.parameters()]


def test_a_checkpointed_student_learns_the_same():
    """Stage maps are read and paths dropped inside of what is recomputed."""
    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_network_that_cannot_be_checkpointed_is_refused():
    with pytest.raises(InputError, match="Small cannot do --grad_checkpointing"):
        enable_checkpointing(Small())


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_stops_when_held_out_images_are_no_longer_known_better(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*DIGITS, "--model", "resnet8", "--epochs", "40", "--learning_rate", "1e-12"]
    flags += ["--val_fraction", "0.2", "--patience", "2"]
    assert cli.run("teacher", flags) == 0
    (folder,) = (path for path in tmp_path.glob("save/teachers/models/*") if not path.is_symlink())
    before = rows(folder)
    accuracies = [row["val_acc"] for row in before]
    best = accuracies.index(max(accuracies))
    assert len(before) == best + 1 + 2 < 40
    assert (folder / "summary.json").exists()
    assert cli.run("teacher", [*flags, "--resume"]) == 0  # it stays stopped
    assert rows(folder) == before


def stop_early(folder: str) -> None:
    size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if size > 1 else 0
    config = TeacherConfig(
        dataset="digits",
        model="tests.nets:tiny",
        batch_size=96,
        epochs=40,
        learning_rate=1e-12,
        val_fraction=0.2,
        patience=2,
        select="loss",
        protocol="crd",
        save_dir=str(Path(folder) / str(size)),
    )
    world = World(rank, size, rank)
    source = data.load("digits")
    place = resolve_run_dir(config.folder(), config.model, config, world)
    seed_everything(config)
    torch.manual_seed(0)
    net = models.create(config.model, num_classes=10, image_size=32)
    card = create_card(config.model, source, channels_last=True)
    splits = split_images(source, config)
    train(config, Supervised(net.eval(), CE()), splits, place, card, world)


def test_several_processes_stop_together_after_the_same_epoch(tmp_path):
    stop_early(str(tmp_path))
    together(2, stop_early, str(tmp_path))
    one, two = (rows(next((tmp_path / size).rglob("metrics.jsonl")).parent) for size in "12")
    assert len(one) == len(two) < 40
    assert [row["epoch"] for row in one] == [row["epoch"] for row in two]
    best = min(two, key=lambda row: row["val_loss"])
    assert len(two) == best["epoch"] + 2


def test_a_transformer_is_trained_by_a_recipe_of_today(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "timm:test_vit", "--image_size", "32", "--opt", "adamw", "--epochs", "3"]
    flags += ["--learning_rate", "2e-3", "--weight_decay", "0.05", "--layer_decay", "0.8"]
    flags += ["--sched", "cosine", "--sched_on_updates", "--warmup_epochs", "1"]
    flags += ["--drop_path", "0.1", "--grad_checkpointing", "--clip_grad", "1", "--ema", "0.99"]
    assert cli.run("teacher", [*DIGITS, *flags]) == 0
    (folder,) = (path for path in tmp_path.glob("save/teachers/models/*") if not path.is_symlink())
    lr = [row["lr"] for row in rows(folder)]
    assert lr[0] == 1e-5
    assert lr[1] == pytest.approx(2e-3 * 0.75)  # a third of the cosine is done
    assert rows(folder)[-1]["train_acc"] > 20
    assert TeacherConfig().opt is None
