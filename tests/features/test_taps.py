import copy

import pytest
import torch
import torchvision
from torch import nn

from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps
from distillers.features.taps import KINDS, Taps, module_at
from distillers.features.trace import ForwardTrace
from tests.nets import Declared, Small


def test_every_kind_is_what_the_modules_compute():
    net, x = Declared().eval(), torch.randn(2, 3, 8, 8)
    read = FeatureExtractor(net, net.taps, KINDS)(x)
    stem = net.stem(x)
    stage1 = net.stage1(stem)
    stage2 = net.stage2(stage1 - 0.1)
    final = net.late(stage2 - 0.2)
    assert torch.equal(read["stem"], stem)
    assert torch.equal(read["maps"][0], stage1)
    assert torch.equal(read["maps"][1], stage2)
    assert torch.equal(read["final"], final)
    assert torch.equal(read["preacts"][0], net.stage1[0](stem))
    assert torch.equal(read["preacts"][1].relu(), stage2)
    assert torch.equal(read["pooled"], final.mean((2, 3)))
    assert torch.equal(read["logits"], net(x))


def test_only_what_is_wanted_is_read_in_one_forward():
    net, calls = Declared(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    hooks = {name: len(m._forward_hooks) for name, m in net.named_modules()}
    reader = FeatureExtractor(net, net.taps, ("pooled", "logits"))
    assert set(reader(torch.randn(2, 3, 8, 8))) == {"pooled", "logits"}
    assert calls == [1]
    assert {name: len(m._forward_hooks) for name, m in net.named_modules()} == hooks
    reader.close()
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_gradient_flows_through_what_was_read():
    net = Declared()
    read = FeatureExtractor(net, net.taps, ("maps", "preacts"))(torch.randn(2, 3, 8, 8))
    (read["maps"][1].sum() + read["preacts"][0].sum()).backward()
    assert net.stem.weight.grad.abs().sum() > 0


def test_a_map_that_is_overwritten_later_is_refused():
    net = Small(inplace=True)
    reader = FeatureExtractor(net, Taps(maps=("stage1", "stage2"), head="fc"), ("maps",))
    with pytest.raises(InputError, match="stage2 is overwritten in place"):
        reader(torch.randn(2, 3, 8, 8))


def test_the_rule_passes_over_a_map_that_is_overwritten():
    taps = find_taps(Small(inplace=True), torch.randn(2, 3, 8, 8))
    assert "stage2" not in taps.maps
    assert taps.maps[-1] == "late"


def test_the_input_of_an_inplace_activation_is_kept():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(256, 5))
    x = torch.randn(2, 3, 8, 8)
    read = FeatureExtractor(net, Taps(maps=("1",), head="3", preacts=("1",)), ("preacts", "maps"))(
        x
    )
    assert torch.equal(read["preacts"][0], net[0](x))
    assert read["preacts"][0].min() < 0 <= read["maps"][0].min()


def test_a_module_that_runs_twice_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(192, 5))
    net.insert(1, net[0])
    with pytest.raises(InputError, match="runs more than once"):
        FeatureExtractor(net, Taps(maps=("0",), head="3"), ("maps",))(torch.randn(2, 3, 8, 8))


def test_a_copy_of_a_read_network_disturbs_nothing():
    net = Declared()
    reader = FeatureExtractor(net, net.taps, ("maps",))
    twin = copy.deepcopy(net)
    twin(torch.randn(2, 3, 8, 8))
    assert len(reader(torch.randn(2, 3, 8, 8))["maps"]) == 2


def test_a_wrong_path_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'stage1'"):
        module_at(Small(), "stag1")
    with pytest.raises(InputError, match="declares no stem"):
        FeatureExtractor(Small(), Taps(maps=("stage1",), head="fc"), ("stem",))


def test_measure_leaves_the_network_as_it_was():
    net = Declared(width=3, classes=7).train()
    net.stage1.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    shapes = ForwardTrace(net, torch.randn(2, 3, 8, 8)).shapes(net.taps)
    assert shapes.channels == (3, 6)
    assert shapes.sizes == ((8, 8), (4, 4))
    assert (shapes.dim, shapes.num_classes) == (6, 7)
    assert net.training
    assert not net.stage1.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_classifier_of_every_place_has_the_mean_of_its_input_as_embedding():
    net, x = torchvision.models.squeezenet1_1(num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    taps = find_taps(net, x)
    assert taps.maps == ("features.4", "features.7", "features.12")
    assert (taps.head, taps.final) == ("classifier.1", "features.12")
    read = FeatureExtractor(net, taps, ("pooled", "final"))(x)
    torch.testing.assert_close(read["pooled"], read["final"].mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "maps", "head"),
    [
        ("resnet18", ("layer1", "layer2", "layer3", "layer4"), "fc"),
        ("mobilenet_v2", None, "classifier.1"),
        ("shufflenet_v2_x1_0", None, "fc"),
        ("densenet121", None, "classifier"),
        ("regnet_y_400mf", None, "fc"),
    ],
)
def test_taps_of_torchvision_networks_are_found(name, maps, head):
    net = torchvision.models.get_model(name, num_classes=10)
    x = torch.randn(2, 3, 64, 64)
    taps = find_taps(net, x)
    assert taps.head == head
    if maps:
        assert taps.maps == maps
    shapes = ForwardTrace(net, x).shapes(taps)
    assert len(shapes.channels) >= 3
    assert list(shapes.sizes) == sorted(shapes.sizes, reverse=True)
