"""DOT: steps of the public code, a second derivation, and runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from distillers.cli import main as cli
from distillers.config.hyperparameters import Hyperparameters
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.distillation.build import distil
from distillers.distillation.joint import JointTask
from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.losses import CE
from distillers.training.dot import DOT
from distillers.training.trainer import Trainer
from tests.golden.fill import draw
from tests.nets import Small, make_batch
from tests.processes import together
from tests.run_folders import interrupt_after

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/losses_second.json").read_text())
DOT_GOLDEN = GOLDEN["others"]["results"]["dot"]
SHAPES = {"a": (3, 2), "b": (4,), "c": (2, 2), "d": (3,)}


def test_steps_are_those_of_the_public_code():
    weights = {
        name: torch.nn.Parameter(draw(f"dot/param/{name}", *shape).double())
        for name, shape in SHAPES.items()
    }
    optimizer = DOT(weights.values(), **DOT_GOLDEN["options"])
    for number, expected in enumerate(DOT_GOLDEN["steps"]):
        optimizer.zero_grad()
        kd, task = (
            sum(
                (weights[name] * draw(f"dot/{kind}/{number}/{name}", *SHAPES[name]).double()).sum()
                for name in names
            )
            for kind, names in (("kd", ("a", "b", "d")), ("task", ("a", "b", "c")))
        )
        optimizer.add_teacher_gradient(kd)
        task.backward()
        optimizer.step()
        for name, each in expected.items():
            found = weights[name].detach()
            assert float(found.norm()) == pytest.approx(each["norm"], rel=1e-10)
            assert found.flatten().tolist() == pytest.approx(each["first"], rel=1e-9)


WEIGHTS = {"ce": 1.0, "kd": 0.9, "at": 10.0}
HPARAMS = Hyperparameters(2, 0.05, weight_decay=5e-4, opt="dot", dot_delta=0.05)


def task_of(weights=WEIGHTS):
    torch.manual_seed(0)
    student, teacher = Small().double(), Small(6).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    return distil(student, teacher, weights, images=images).train()


def batch_of(number: int, n: int = 6):
    batch = make_batch(n, seed=number)
    return replace(batch, images=batch.images.double())


def flat(task) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.parameters() if p.requires_grad])


def test_a_distillation_is_trained_by_the_two_momenta():
    """Second derivation: g_kd is what the whole gradient has more than that of cross-entropy."""
    task, copied = task_of().eval(), task_of().eval()
    trainer = Trainer(task, HPARAMS)
    parameters = [p for p in copied.parameters() if p.requires_grad]
    momenta = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    for number in range(4):
        batch = batch_of(number)
        trainer.training_step(batch, 0.0, number + 1)
        ce = F.cross_entropy(copied.student(batch.images), batch.labels)
        of_labels = torch.autograd.grad(ce, parameters)
        whole = torch.autograd.grad(copied(batch).loss, parameters)
        with torch.no_grad():
            for n, p in enumerate(parameters):
                task_momentum, kd_momentum = (each[n] for each in momenta)
                task_momentum.mul_(0.85).add_(of_labels[n] + 5e-4 * p)
                kd_momentum.mul_(0.95).add_(whole[n] - of_labels[n])
                p.sub_(0.05 * (task_momentum + kd_momentum))
    torch.testing.assert_close(flat(task), flat(copied), rtol=1e-9, atol=1e-12)
    plain = task_of().eval()
    Trainer(plain, replace(HPARAMS, opt=None)).training_step(batch_of(0), 0.0, 1)
    assert not torch.equal(flat(plain), flat(task))


def test_without_a_delta_it_is_sgd():
    found, expected = task_of(), task_of()
    for task, hparams in (
        (found, replace(HPARAMS, dot_delta=0.0)),
        (expected, replace(HPARAMS, opt=None)),
    ):
        trainer = Trainer(task, hparams)
        for number in range(4):
            trainer.training_step(batch_of(number), 0.0, number + 1)
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-9, atol=1e-12)


def test_a_joint_task_trains_each_of_its_tasks_by_both_momenta():
    def tasks():
        return [task_of(), task_of({"ce": 1.0, "kd": 0.5}), Supervised(Small().double(), CE())]

    torch.manual_seed(0)
    alone = tasks()
    torch.manual_seed(0)
    joint = JointTask(tasks())
    for task in (*alone, joint):
        trainer = Trainer(task, HPARAMS)
        for number in range(3):
            trainer.training_step(batch_of(number), 0.0, number + 1)
    expected = torch.cat([flat(task) for task in alone])
    torch.testing.assert_close(flat(joint), expected, rtol=1e-9, atol=1e-12)


def test_accumulated_batches_are_one_batch():
    whole, parts = task_of().eval(), task_of().eval()
    batch = batch_of(0)
    Trainer(whole, HPARAMS).training_step(batch, 0.0, 1)
    trainer = Trainer(parts, replace(HPARAMS, accumulate=2))
    for number, rows in enumerate((slice(0, 3), slice(3, 6)), 1):
        half = replace(batch, images=batch.images[rows], labels=batch.labels[rows])
        trainer.training_step(half, 0.0, number, 2, number == 2)
    torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-9, atol=1e-12)


def test_a_step_with_one_spoilt_gradient_is_undone():
    for spoilt in ("label", "teacher"):
        task = task_of()
        trainer = Trainer(task, replace(HPARAMS, on_nan="skip"))
        before = flat(task)

        def spoil(task, args, step, part=f"{spoilt}_loss"):
            return step._replace(**{part: getattr(step, part) * math.inf})

        hook = task.register_forward_hook(spoil)
        trainer.training_step(batch_of(0), 0.0, 1)
        assert torch.equal(flat(task), before)
        assert trainer.metrics.skipped == 1
        hook.remove()
        trainer.training_step(batch_of(1), 0.0, 2)
        assert flat(task).isfinite().all()
        assert not torch.equal(flat(task), before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_takes_nearly_the_same_steps(precision):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def trained(precision):
        torch.manual_seed(0)
        task = distil(Small(), Small(6), {"ce": 1.0, "kd": 1.0}, images=images).train()
        trainer = Trainer(task, replace(HPARAMS, precision=precision))
        start = flat(task)
        for number in range(6):
            trainer.training_step(make_batch(seed=number), 0.0, number + 1)
        return flat(task) - start

    found, expected = trained(precision), trained("fp32")
    assert float((found - expected).norm() / expected.norm()) < 0.15
    assert found.norm() > 0


def test_a_scaler_steps_back_where_only_the_teachers_gradient_overflows():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = DOT([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer.add_teacher_gradient(scaler.scale((weight * torch.tensor([1.0, 1e38])).sum()) * 1e2)
    scaler.scale(weight.sum()).backward()
    optimizer.spread_non_finite()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, torch.ones(2))
    assert scaler.get_scale() == 2.0
    optimizer.zero_grad()
    optimizer.add_teacher_gradient(scaler.scale((weight * 3).sum()))
    scaler.scale(weight.sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(weight.detach(), torch.ones(2) - 0.4)


def train_together(folder: str) -> None:
    rank, counts = dist.get_rank(), (4, 2)
    task = task_of().eval()
    trainer = Trainer(task, HPARAMS, World(rank, 2, rank))
    for number in range(3):
        whole = batch_of(number)
        rows = slice(0, 4) if rank == 0 else slice(4, 6)
        part = replace(
            whole, images=whole.images[rows], labels=whole.labels[rows], rows_per_rank=counts
        )
        trainer.training_step(part, 0.0, number + 1)
    torch.save(flat(task), Path(folder) / f"{rank}.pth")


def test_two_processes_are_one(tmp_path):
    together(2, train_together, str(tmp_path))
    task = task_of().eval()
    trainer = Trainer(task, HPARAMS)
    for number in range(3):
        trainer.training_step(batch_of(number), 0.0, number + 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(found, flat(task), rtol=1e-9, atol=1e-12)


REFUSED = {
    "--opt dot --clip_grad 1": "--opt dot has no --clip_grad",
    "--opt dot --layer_decay 0.7": "--opt dot has no --layer_decay",
    "--opt dot --dot_delta 0.2": "--dot_delta is 0.2; it must be so that --momentum ± it",
    "--dot_delta 0.05": "--dot_delta needs --opt dot",
    "--opt dott": "did you mean 'dot'",
    "--opt dot --shard": "--shard supports --opt adam",
}


@pytest.mark.parametrize("words", REFUSED)
def test_flags_that_do_not_fit_are_refused(words):
    with pytest.raises(InputError, match=REFUSED[words].replace("(", r"\(")):
        parse(StudentConfig, ["--path_t", "x", *words.split()], "x").check()


def test_it_is_for_students_only():
    with pytest.raises(InputError, match="--opt dot keeps teacher and labels apart"):
        TeacherConfig(opt="dot").check()


def test_a_run_is_resumed_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["--dataset", "digits", "--batch_size", "256", "--gpu_id", "cpu"]
    shared += ["--lr_decay_epochs", ""]
    assert cli.run("teacher", [*shared, "--model", "tests.nets:tiny", "--epochs", "1"]) == 0
    flags = [*shared, "--path_t", "save/teachers/models/tests.nets-tiny_vanilla", "--epochs", "3"]
    flags += ["--model_s", "tests.nets:tiny", "--distill", "pkt+kd", "--opt", "dot"]
    flags += ["--learning_rate", "0.02", "--model_t", "tests.nets:tiny"]
    assert cli.run("student", [*flags, "--save_dir", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch=2)
        assert cli.run("student", [*flags, "--save_dir", "parts"]) == 130
    assert cli.run("student", [*flags, "--save_dir", "parts", "--resume"]) == 0
    a, b = (
        torch.load(next((tmp_path / name).rglob("*_last.pth")), weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
