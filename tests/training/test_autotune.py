"""--precision auto: what it takes, that it leaves no trace, and that a run keeps its choice."""

import copy
from dataclasses import replace

import pytest
import torch

from distillers.cli import main as cli
from distillers.config.hyperparameters import Hyperparameters
from distillers.distillation.build import distil
from distillers.training import runner as run
from distillers.training.autotune import (
    ROUNDS,
    Choice,
    CompileCost,
    best_of,
    choose,
    compile_cost,
)
from tests.nets import Declared, make_batch


def test_fewer_digits_must_save_time():
    assert best_of({"fp32": 100.0, "bf16": 96.0}) == "fp32"
    assert best_of({"fp32": 100.0, "bf16": 94.0}) == "bf16"
    assert best_of({"fp32": 100.0, "bf16": 50.0, "fp16": 49.0}) == "bf16"
    assert best_of({"fp32": 100.0, "bf16": 170.0, "fp16": 60.0}) == "fp16"


def test_trying_leaves_no_trace():
    torch.manual_seed(0)
    weights, options = {"ce": 1.0, "crd": 1.0, "rrd": 1.0}, {"crd": {"negatives": 8}}
    task = distil(
        Declared(3),
        Declared(6),
        weights,
        images=make_batch().images,
        train_labels=torch.arange(40) % 5,
        options=options,
    )
    task.losses["crd"].eval()
    kept = torch.ones_like(task.student.fc.bias)
    task.student.fc.bias.grad = kept
    before, drawn = copy.deepcopy(task.state_dict()), torch.random.get_rng_state()
    hparams = Hyperparameters(
        1, learning_rate=0.1, precision="auto", accumulate=2, ema=0.9, compile=True
    )
    choice = choose(task, make_batch(), hparams)
    assert set(choice.milliseconds) >= {"fp32", "bf16"}
    assert all(ms > 0 for ms in choice.milliseconds.values())
    assert choice.precision == best_of(choice.milliseconds)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert task.student.fc.bias.grad is kept
    assert [name for name, p in task.named_parameters() if p.grad is not None] == [
        "student.fc.bias"
    ]
    assert task.training
    assert not task.losses["crd"].training


def test_when_compiling_pays_is_said():
    cost = CompileCost(30.0, 10.0, 8.0, num_steps=1000, num_epochs=20)
    assert cost.epochs_to_pay == 15
    assert str(cost).endswith("instead of 10.0 ms a step: it pays after 15 epochs of 1,000 steps")
    assert "and this run has 10; leave it out" in str(replace(cost, num_epochs=10))
    assert "it saves nothing here; leave it out" in str(replace(cost, eager_ms=8.0))
    assert "it saves nothing here; leave it out" in str(replace(cost, eager_ms=7.0))


def test_timing_a_compiled_step_leaves_no_trace(monkeypatch):
    """An eager step stands for the compiled one, which takes long to compile."""
    used = []
    monkeypatch.setattr(
        "torch.compile", lambda task, **_: lambda *args: (used.append(1), task(*args))[1]
    )
    torch.manual_seed(0)
    task = distil(Declared(3), Declared(6), {"kd": 1.0}, images=make_batch().images)
    before, drawn = copy.deepcopy(task.state_dict()), torch.random.get_rng_state()
    hparams = Hyperparameters(7, learning_rate=0.1, ema=0.9, compile=True)
    cost = compile_cost(task, make_batch(), hparams, 5)
    assert len(used) == 1 + 1 + ROUNDS
    assert (cost.num_steps, cost.num_epochs) == (5, 7)
    assert min(cost.eager_ms, cost.compiled_ms) > 0
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_part_of_a_step_is_tried(monkeypatch):
    """Else the proof above would hold of a choice that does nothing."""
    seen = []
    monkeypatch.setattr("distillers.training.autotune.ROUNDS", 1)
    task = distil(Declared(3), Declared(6), {"kd": 1.0}, images=make_batch().images)
    task.student.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    task.student.fc.bias.register_hook(lambda _: seen.append("back"))
    choose(task, make_batch(), Hyperparameters(1, learning_rate=0.1))
    assert seen.count(torch.float32) == seen.count(torch.bfloat16) == 3  # two rounds warm up
    assert seen.count("back") == 6


def test_a_run_keeps_its_choice(tmp_path, monkeypatch, capsys):
    choice = Choice("bf16", {"fp32": 2.0, "bf16": 1.0})
    monkeypatch.setattr(run, "choose", lambda *_: choice)
    flags = ["--dataset", "digits", "--model", "resnet8", "--epochs", "1", "--precision", "auto"]
    flags += ["--save_dir", str(tmp_path), "--batch_size", "256"]
    plans, fit = [], run.fit

    def noted(task, loader, hparams, **others):
        plans.append(hparams.precision)
        return fit(task, loader, hparams, **others)

    monkeypatch.setattr(run, "fit", noted)
    assert cli.run("teacher", flags) == 0
    assert (
        capsys.readouterr().out.count("precision: bf16 (a step took fp32 2.0 ms, bf16 1.0 ms)") == 1
    )
    monkeypatch.setattr(run, "choose", lambda *_: pytest.fail("tried again"))
    assert cli.run("teacher", [*flags, "--resume"]) == 0
    assert plans == ["bf16", "bf16"]
    assert "precision:" not in capsys.readouterr().out
