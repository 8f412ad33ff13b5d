"""Optimizers, parameter groups and clipping agree with timm's."""

import io

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, list_optimizers
from timm.utils.clip_grad import dispatch_clip_grad
from torch import nn

from distillers.config.hyperparameters import Hyperparameters
from distillers.config.student import StudentConfig
from distillers.distillation.build import distil
from distillers.distillation.task import Supervised
from distillers.errors import InputError
from distillers.losses import CE
from distillers.training.optim import build_optimizer, timm_parameter_groups
from distillers.training.trainer import Trainer
from tests.nets import Small, make_batch

HPARAMS = {"epochs": 1, "learning_rate": 0.01, "weight_decay": 0.05}


def vit() -> nn.Module:
    return timm.create_model("test_vit", num_classes=5, img_size=32)


def described(optimizer):
    return [
        (
            [id(p) for p in group["params"]],
            group["weight_decay"],
            group.get("lr_scale"),
        )
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
def test_parameter_groups_of_a_network_are_those_of_timm(layer_decay, weight_decay):
    net = vit()
    hparams = Hyperparameters(
        1, 0.01, opt="adamw", weight_decay=weight_decay, layer_decay=layer_decay
    )
    expected = create_optimizer_v2(
        net, "adamw", lr=0.01, weight_decay=weight_decay, layer_decay=layer_decay
    )
    found = build_optimizer(Supervised(net, CE()), hparams)
    assert described(found) == described(expected)
    assert len(found.param_groups) > (10 if layer_decay else 0)


def test_parameters_of_losses_are_grouped_alike_and_those_exempt_are_not_decayed():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    task = distil(Small(), Small(6), {"ce": 1.0, "dcd": 1.0}, images=images)
    student, loss = task.student, task.losses["dcd"]
    groups = timm_parameter_groups(task, 0.05, None)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decays) == sum(len(group["params"]) for group in groups)
    assert decays.keys() == {id(p) for p in task.parameters() if p.requires_grad}
    assert decays[id(student.fc.weight)] == decays[id(loss.embed_student.weight)] == 0.05
    assert decays[id(student.fc.bias)] == decays[id(loss.embed_student.bias)] == 0.0
    assert decays[id(loss.log_scale)] == decays[id(student.stage2[1].weight)] == 0.0


def test_without_a_name_of_an_optimizer_all_parameters_are_decayed_as_published():
    groups = build_optimizer(Supervised(Small(), CE()), Hyperparameters(**HPARAMS)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05]
    assert not groups[0]["nesterov"]


def steps(task, hparams, first, last, state=None):
    optimizer = build_optimizer(task, hparams)
    if state:
        task.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    for seed in range(first, last):
        optimizer.zero_grad()
        task(make_batch(seed=seed)).loss.backward()
        optimizer.step()
    buffer = io.BytesIO()
    torch.save([task.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# those that compile their step are left out; they take half a minute
NAMES = list_optimizers(exclude_filters=["adahessian", "bnb*", "fused*", "kron*"])


@pytest.mark.parametrize("name", [*NAMES, "lookahead_adamw"])
def test_every_optimizer_goes_on_with_the_same_bits(name):
    hparams = Hyperparameters(**HPARAMS, opt=name)
    StudentConfig(path_t="x", opt=name).check()
    tasks = []
    for seed in (0, 0, 7):
        torch.manual_seed(seed)
        tasks.append(Supervised(Small(), CE()))
    whole = steps(tasks[0], hparams, 0, 4)[0]
    again = steps(tasks[2], hparams, 2, 4, steps(tasks[1], hparams, 0, 2))[0]
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_an_optimizer_takes_eps_and_betas():
    hparams = Hyperparameters(**HPARAMS, opt="adamw", opt_eps=1e-6, opt_betas=(0.8, 0.9))
    group = build_optimizer(Supervised(Small(), CE()), hparams).param_groups[0]
    assert (group["eps"], group["betas"]) == (1e-6, (0.8, 0.9))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"opt": "lion", "opt_eps": 1e-6}, "--opt lion has no eps"),
        ({"opt": "sgd", "opt_betas": (0.9,)}, "--opt sgd has no betas"),
        ({"opt": "adan", "opt_betas": (0.9,)}, "--opt adan has 3 betas; .* has 1 number."),
        ({"opt": "lion", "opt_betas": (0.9, 0.9, 0.9)}, "--opt lion has 2 .* has 3 numbers."),
        ({"opt": "nesterov", "momentum": 0.0}, "--opt nesterov cannot be created"),
        ({"opt": "adamw", "layer_decay": 0.7}, "--layer_decay needs a network .* Small does not"),
    ],
)
def test_options_that_an_optimizer_or_network_does_not_have_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        build_optimizer(Supervised(Small(), CE()), Hyperparameters(**HPARAMS, **flags))


@pytest.mark.parametrize(("mode", "limit"), [("norm", 0.01), ("value", 1e-3), ("agc", 1e-3)])
def test_gradients_are_clipped_as_by_timm(mode, limit):
    torch.manual_seed(0)
    task = Supervised(Small(), CE())
    hparams = Hyperparameters(1, 1.0, momentum=0.0, weight_decay=0.0, clip_grad=limit)
    trainer = Trainer(task, hparams)
    trainer.backward(make_batch(), 0.0)
    parameters = list(task.parameters())
    before = [p.grad.clone() for p in parameters]
    trainer.runner.clip_grad(limit, mode)
    found = [p.grad.clone() for p in parameters]
    for p, grad in zip(parameters, before, strict=True):
        p.grad = grad.clone()
    dispatch_clip_grad(parameters[:-2] if mode == "agc" else parameters, limit, mode)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(parameters, found, strict=True))
    changed = [not torch.equal(*pair) for pair in zip(found, before, strict=True)]
    assert any(changed)


def test_layers_learn_at_their_own_rates():
    """Second derivation: by SGD without momentum each step is the rate times the gradient."""
    torch.manual_seed(0)
    task = Supervised(vit(), CE())
    hparams = Hyperparameters(
        1, 0.1, opt="momentum", momentum=0.0, weight_decay=0.0, layer_decay=0.5, sched="constant"
    )
    batch = make_batch(size=32)
    trainer = Trainer(task, hparams)
    before = {name: p.detach().clone() for name, p in task.student.named_parameters()}
    loss = F.cross_entropy(task.student(batch.images), batch.labels)
    names = ("head.weight", "blocks.0.attn.qkv.weight")
    grads = torch.autograd.grad(loss, [task.student.get_parameter(name) for name in names])
    from distillers.training.schedule import Schedule

    Schedule(trainer.optimizer, hparams, 1).set(1)
    trainer.training_step(batch, 0.0, 1)
    depth = len(task.student.blocks)
    for name, grad, scale in zip(names, grads, (1.0, 0.5**depth), strict=True):
        moved = before[name] - task.student.get_parameter(name).detach()
        torch.testing.assert_close(moved, 0.1 * scale * grad, rtol=1e-3, atol=1e-7)
