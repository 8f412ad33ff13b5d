"""What would fail or wait on CUDA, found without a GPU.

Fake tensors have a device and a shape but no values: an operation on tensors of two devices fails
as on CUDA, and so does one whose result the host would have to wait for. (Backward passes need a
device.) Waits of a whole training step are counted on the CPU, where the same operations run.
"""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import distillers
from distillers import models
from distillers.config.hyperparameters import Hyperparameters
from distillers.data.batch import Batch
from distillers.data.loaders.memory import Loader
from distillers.losses import wiring
from tests.losses.cases import CASES

LOSSES = sorted(CASES)
PAIR = ("resnet14", "resnet8")


def to_cuda(value: object) -> object:
    """Replace the tensors of a structure by those of a CUDA device."""
    return tree_map_only(Tensor, lambda each: each.to("cuda"), value)


def move(module: nn.Module) -> nn.Module:
    """Replace parameters and buffers, which fake tensors do not allow `.to` to do."""
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                moved = parameter.detach().to("cuda")
                each._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
        each._buffers |= {
            name: None if buffer is None else buffer.to("cuda")
            for name, buffer in each._buffers.items()
        }
    return module


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_stays_on_the_device_and_never_waits(name):
    cls, case = wiring.find(name), CASES[name]
    loss, inputs = case.build(cls), case.inputs(cls)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        loss = move(tree_modules(loss, mode))
        inputs = to_cuda(tree_map_only(Tensor, mode.from_tensor, inputs))
        for _ in range(2):  # the second step finds what the first one stored
            value = loss(**inputs)
            assert value.device.type == "cuda"
            assert value.shape == ()


def tree_modules(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Make parameters and buffers fake; other tensors stay, and fail where they are used."""
    for each in module.modules():
        for tensors in (each._parameters, each._buffers):
            tensors |= {
                name: None if value is None else mode.from_tensor(value)
                for name, value in tensors.items()
            }
    return module


def test_a_tensor_left_on_the_host_and_a_wait_are_noticed():
    with FakeTensorMode():
        x = torch.ones(3, device="cuda")
        with pytest.raises(Exception, match="device"):
            x + torch.ones(3)
        with pytest.raises(Exception, match="local_scalar_dense"):
            float(x.sum())


@pytest.mark.parametrize("name", ["ab", "crd", "dcd", "kd", "mlkd", "reviewkd", "rrd", "simkd"])
def test_a_distillation_runs_on_the_device(name):
    classes = 10
    teacher, student = (models.create(each, num_classes=classes) for each in PAIR)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    task = distillers.distil(
        student,
        teacher,
        {"ce": 1.0, name: 1.0},
        images=images,
        train_labels=torch.arange(40) % classes,
        batch_size=4,
    )
    batch = [images, labels, torch.arange(4), images.flip(3)]
    nets = [net for each in task.teachers for net in {each.net, each.fused}]
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        for module in (task, *nets):
            move(tree_modules(module, mode))
        images, labels, index, strong = to_cuda(tree_map_only(Tensor, mode.from_tensor, batch))
        step = task(Batch(images, labels, index, strong=strong), 0.5)
    assert step.loss.device.type == "cuda"


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_in_memory_are_augmented_on_the_device(channels_last):
    pixels = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(64) % 10
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        loader = Loader(
            mode.from_tensor(pixels),
            mode.from_tensor(labels),
            batch_size=16,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            augment=True,
            device="cuda",
            channels_last=channels_last,
        )
        for batch in loader.epoch(1):
            assert batch.images.device.type == batch.labels.device.type == "cuda"


class Waits(TorchDispatchMode):
    """Count the operations for whose result a host waits for its GPU."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        mask = name in ("index", "index_put_") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1])
        )
        if name in self.NAMES or mask:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def test_waits_are_counted():
    x = torch.arange(4.0)
    with Waits() as counted:
        float(x.sum()), x[x > 1], x.nonzero()
    assert counted.counts == {"_local_scalar_dense": 1, "index": 1, "nonzero": 1}


@pytest.mark.parametrize("losses", [{"ce": 0.1, "kd": 0.9}, {"ce": 1.0, "crd": 0.8, "rrd": 1.0}])
def test_steps_do_not_wait_for_the_device(losses):
    """20 more steps of an epoch are not one wait more."""
    assert waits(40, losses) == waits(20, losses)


def waits(steps: int, losses: dict[str, float]) -> Counter[str]:
    """Train an epoch and count."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    count = 4 * steps
    images = torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    teacher, student = (models.create(each, num_classes=10) for each in PAIR)
    task = distillers.distil(
        student, teacher, losses, images=torch.randn(4, 3, 16, 16), train_labels=labels
    )
    loader = Loader(
        images, labels, batch_size=4, mean=[0.5] * 3, std=[0.2] * 3, augment=True, shuffle=True
    )
    counted = Waits()
    with counted:
        distillers.fit(task, loader, Hyperparameters(epochs=1, learning_rate=0.01, print_freq=1000))
    return counted.counts
