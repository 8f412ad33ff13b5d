"""Every network of the zoo against the numbers of its published implementation."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from distillers import models
from distillers.models.profile import count_parameters
from distillers.models.registry import LARGE_IMAGES, PUBLISHED, SMALL_IMAGES
from tests.golden.fill import draw, fill_by_key

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "models.json").read_text())
del GOLDEN["about"]
SLOW = {"resnet110x2", *(case for case in GOLDEN if case in LARGE_IMAGES)}
WITH_OUTPUTS = [
    pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case
    for case, golden in GOLDEN.items()
    if "logits" in golden
]


def build(case: str) -> nn.Module:
    """The network of a golden case."""
    golden = GOLDEN[case]
    size = 224 if case in LARGE_IMAGES else 32
    return models.create(case.removesuffix("_cifar"), golden["num_classes"], size)


def read(net: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Run once; [stem, stages, pooled], the pre-activations, and the logits.

    Everything is copied when it is seen, and compared with itself after the forward, so that a
    later operation in place cannot go unnoticed.
    """
    seen: dict[tuple[str, str], list[Tensor]] = {}

    def watch(path: str, side: str) -> None:
        def keep(value: Tensor) -> None:
            seen.setdefault((path, side), []).extend([value, value.clone()])

        module = net.get_submodule(path)
        if side == "out":
            handles.append(module.register_forward_hook(lambda *call: keep(call[2])))
        else:
            assert not getattr(module, "inplace", False)
            handles.append(module.register_forward_pre_hook(lambda *call: keep(call[1][0])))

    taps = net.taps
    handles: list = []
    final = taps.final or taps.maps[-1]
    for path in {taps.stem, *taps.maps, final}:
        watch(path, "out")
    for path in {taps.head, *taps.preacts}:
        watch(path, "in")
    with torch.no_grad():
        logits = net(images)
    for handle in handles:
        handle.remove()
    for place, values in seen.items():
        assert len(values) == 2, f"{place} ran more than once"
        if not images.is_meta:
            assert torch.equal(*values), f"{place} was overwritten"
    features = [seen[path, "out"][0] for path in (taps.stem, *taps.maps)]
    pooled = seen[taps.head, "in"][0]
    final_map = seen[final, "out"][0]
    assert final_map.shape[:2] == pooled.shape
    if not images.is_meta:
        torch.testing.assert_close(final_map.mean(dim=(2, 3)), pooled)
    preacts = [seen[path, "in"][0] for path in taps.preacts]
    return [*features, pooled], preacts, logits


def summary(values: Tensor, shown: Tensor) -> list[float]:
    """Mean, standard deviation and some values, as the golden file has them."""
    return [values.mean().item(), values.std().item(), *shown.flatten().tolist()]


@pytest.mark.parametrize("case", GOLDEN)
def test_names_and_shapes_are_the_published_ones(case):
    golden = GOLDEN[case]
    with torch.device("meta"):
        net = build(case)
    assert count_parameters(net) == golden["params"]
    state = {
        name: list(value.shape)
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    if "names" in golden:
        lines = [f"{name} {shape}" for name, shape in state.items()]
        assert len(lines) == golden["names"]
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == golden["names_sha256"]
    size = golden["image_size"]
    images = torch.zeros(2, 3, size, size, device="meta")
    features, preacts, logits = read(net.eval(), images)
    assert [list(feature.shape) for feature in features] == golden["feature_shapes"]
    assert [preact.shape for preact in preacts] == [feature.shape for feature in features[1:-1]]
    assert logits.shape == (2, golden["num_classes"])


@pytest.mark.parametrize("case", WITH_OUTPUTS)
def test_outputs_are_the_published_ones(case):
    golden = GOLDEN[case]
    net = build(case)
    fill_by_key(net)
    size = golden["image_size"]
    images = draw(f"image:{size}", 2, 3, size, size).double()
    features, preacts, logits = read(net.double().eval(), images)
    for feature, expected in zip(features, golden["features"], strict=True):
        found = summary(feature, feature.flatten()[:4])
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert summary(logits, logits[:, :5]) == pytest.approx(golden["logits"], rel=1e-9)
    if case.startswith("MobileNetV2"):  # linear bottlenecks
        assert all(map(torch.equal, preacts, features[1:-1]))
    elif not case.startswith("wrn_") or case == "wrn_50_2":
        assert all(torch.equal(p.relu(), f) for p, f in zip(preacts, features[1:-1], strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_imagenet_names_have_torchvisions_state_dict(name):
    with torch.device("meta"):
        ours = models.create(name, 1000, 224).state_dict()
        theirs = torchvision_models.get_model(PUBLISHED[name], weights=None).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


@pytest.mark.parametrize(
    "name", [name for name in [*SMALL_IMAGES, *LARGE_IMAGES] if name not in GOLDEN]
)
def test_taps_fit_the_networks_without_golden_numbers(name):
    size = 64 if name in LARGE_IMAGES else 32
    with torch.device("meta"):
        net = models.create(name, 7, 224 if name in LARGE_IMAGES else 32)
    features, preacts, logits = read(net.eval(), torch.zeros(2, 3, size, size, device="meta"))
    assert [feature.ndim for feature in features] == [4] * (len(features) - 1) + [2]
    shapes = [feature.shape for feature in features[1:-1]]
    assert [preact.shape for preact in preacts] == ([] if name == "ShuffleV2_Imagenet" else shapes)
    assert logits.shape == (2, 7)
