"""Networks of unusual structure: what is read is the embedding, or the loss is refused by name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distillers.config.hyperparameters import Hyperparameters
from distillers.distillation.build import distil
from distillers.distillation.heads.attach import as_backbone
from distillers.distillation.task import Supervised
from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps
from distillers.features.taps import Taps
from distillers.features.unwrap import unwrap
from distillers.losses import CE
from distillers.training.trainer import Trainer
from tests.nets import Declared, Small, make_batch, tiny_vit

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
WIDTH, CLASSES = 8, 5
LOSSES = ("kd", "crd", "dcd", "rrd", "rkd", "srrl", "simkd", "sp", "sdd", "catkd", "ofa")


class Embed(Small):
    """The embedding of `Small`, (n, 8)."""

    def __init__(self) -> None:
        super().__init__()
        del self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.stage2(self.stage1(self.stem(x))).mean((2, 3))


class Calls(nn.Module):
    """A network that is a function of its children."""

    def __init__(self, function, **children) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Arc(nn.Module):
    """Cosines with the rows of a linear layer, which is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return 9 * F.linear(F.normalize(x), F.normalize(self.fc.weight))


class Adapted(nn.Module):
    """A linear layer with a low-rank update, which is added last or first."""

    def __init__(self, update_first: bool) -> None:
        super().__init__()
        self.update_first = update_first
        self.base = nn.Linear(WIDTH, CLASSES)
        self.down = nn.Linear(WIDTH, 2, bias=False)
        self.up = nn.Linear(2, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.update_first:
            return self.up(self.down(x)) + self.base(x)
        return self.base(x) + self.up(self.down(x))


def wide() -> nn.Module:
    """A trunk whose last convolution and embedding are as wide as the classes."""
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, CLASSES, 3), nn.ReLU())


def parameter(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(size))


# each: the network, and the path of its trunk whose output is the embedding
READ = {
    "cosines of a child": (lambda: nn.Sequential(Embed(), Arc()), "0"),
    "low rank last": (lambda: nn.Sequential(Embed(), Adapted(False)), "0"),
    "low rank first": (lambda: nn.Sequential(Embed(), Adapted(True)), "0"),
    "classes picked": (
        lambda: Calls(lambda s, x: s.fc(s.e(x))[:, [3, 1, 4, 0, 2]], e=Embed(), fc=nn.Linear(8, 9)),
        "e",
    ),
    "classifier taken away": (
        lambda: Calls(lambda s, x: s.fc(s.e(x)), e=Embed(), fc=nn.Identity()),
        "e",
    ),
    "two heads": (
        lambda: Calls(
            lambda s, x: (lambda e: s.a(e) + s.b(e))(s.e(x)),
            e=Embed(),
            a=nn.Linear(WIDTH, CLASSES),
            b=nn.Linear(WIDTH, CLASSES),
        ),
        "e",
    ),
    "an unused head": (
        lambda: Calls(
            lambda s, x: (lambda e: (s.fc(e), s.aux(e))[0])(s.e(x)),
            e=Embed(),
            fc=nn.Linear(WIDTH, CLASSES),
            aux=nn.Linear(WIDTH, CLASSES),
        ),
        "e",
    ),
    "experts": (
        lambda: Calls(
            lambda s, x: (lambda e: s.a(e) * s.gate(e).sigmoid() + s.b(e))(s.e(x)),
            e=Embed(),
            gate=nn.Linear(WIDTH, 1),
            a=nn.Linear(WIDTH, CLASSES),
            b=nn.Linear(WIDTH, CLASSES),
        ),
        "e",
    ),
    "lazy": (
        lambda: nn.Sequential(
            nn.Sequential(nn.LazyConv2d(8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.LazyLinear(CLASSES),
        ),
        "0",
    ),
    "scripted trunk": (
        lambda: nn.Sequential(torch.jit.script(Embed().eval()), nn.Linear(WIDTH, CLASSES)),
        "0",
    ),
    "bfloat16 inside": (
        lambda: Calls(
            lambda s, x: s.fc(s.e(x.bfloat16())).float(),
            e=Embed().bfloat16(),
            fc=nn.Linear(WIDTH, CLASSES).bfloat16(),
        ),
        "e",
    ),
    "autocast inside": (
        lambda: Calls(
            lambda s, x: torch.autocast("cpu", torch.bfloat16)(lambda: s.fc(s.e(x)))(),
            e=Embed(),
            fc=nn.Linear(WIDTH, CLASSES),
        ),
        "e",
    ),
    "float64 inside": (
        lambda: Calls(
            lambda s, x: s.fc(s.e(x.double())),
            e=Embed().double(),
            fc=nn.Linear(WIDTH, CLASSES).double(),
        ),
        "e",
    ),
}

# With other things than averaging around the classifier, which cannot be taken away alone.
REFUSED_WITHOUT = ("low rank last", "low rank first", "classes picked", "two heads", "experts")

# Networks in which no layer takes the embedding of each image.
UNREADABLE = {
    "crops in the batch": lambda: Calls(
        lambda s, x: s.net(torch.cat([x, x.flip(3)])).view(2, len(x), -1).mean(0), net=Small()
    ),
    "crops of a declared network": lambda: Calls(
        lambda s, x: (
            s.net(torch.stack([x, x.flip(3)], 1).flatten(0, 1)).view(len(x), 2, -1).mean(1)
        ),
        net=Declared(),
    ),
    "image by image": lambda: Calls(
        lambda s, x: torch.cat([s.net(one[None]) for one in x]), net=Small()
    ),
    "cosines of a parameter": lambda: Calls(
        lambda s, x: F.normalize(s.e(x)) @ F.normalize(s.w).T, e=Embed(), w=parameter(5, 8)
    ),
    "distances to prototypes": lambda: Calls(
        lambda s, x: -torch.cdist(s.e(x), s.w), e=Embed(), w=parameter(5, 8)
    ),
    "function of a wide embedding": lambda: Calls(
        lambda s, x: F.linear(s.e(x).mean((2, 3)), s.w), e=wide(), w=parameter(5, 5)
    ),
    "function of a wide layer": lambda: Calls(
        lambda s, x: F.linear(s.h(s.e(x)).relu(), s.w),
        e=Embed(),
        h=nn.Linear(WIDTH, CLASSES),
        w=parameter(5, 5),
    ),
    "no classifier": lambda: Calls(lambda s, x: s.e(x).mean((2, 3)), e=wide()),
}


def given(loss: str, batch) -> dict:
    options = {"crd": {"crd": {"negatives": 2}}, "rrd": {"rrd": {"queue_size": 8}}}
    return {
        "images": batch.images,
        "train_labels": batch.labels,
        "batch_size": len(batch.images),
        "options": options.get(loss),
    }


@pytest.mark.parametrize("name", READ)
def test_the_embedding_is_the_input_of_the_classifier(name):
    torch.manual_seed(0)
    build, path = READ[name]
    net, images = build().eval(), make_batch().images
    taps = find_taps(net, images)
    read = FeatureExtractor(net, taps, ("pooled",))(images)["pooled"]
    assert read.dtype == torch.float32
    trunk = net.get_submodule(path)
    weight = next(trunk.parameters())
    expected = trunk(images.to(weight.dtype)).float()
    tolerance = 2e-2 if "16" in name or "auto" in name else 1e-6
    torch.testing.assert_close(read, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*READ, *UNREADABLE])
def test_a_loss_trains_the_network_or_is_refused_by_name(name):
    build = READ[name][0] if name in READ else UNREADABLE[name]
    batch, trained = make_batch(), []
    for loss in LOSSES:
        torch.manual_seed(0)
        net = build()
        classes = 8 if name == "classifier taken away" else CLASSES
        try:
            task = distil(net, Small(classes=classes), {loss: 1.0}, **given(loss, batch))
        except InputError as error:
            assert loss.upper() in str(error).upper()  # noqa: PT017
            continue
        task.train()
        task(batch).loss.backward()
        assert any(p.grad is not None and p.grad.any() for p in net.parameters()), loss
        trained.append(loss)
    assert "kd" in trained
    assert ({"crd", "dcd", "rrd", "rkd"} <= set(trained)) == (name in READ)
    assert ("crd" in trained) == (name in READ)


@pytest.mark.parametrize("name", READ)
def test_a_teacher_without_its_classifier_returns_its_embedding_or_is_refused(name):
    torch.manual_seed(0)
    build, path = READ[name]
    net, images = build().eval(), make_batch().images
    try:
        backbone = as_backbone(net, images).eval()
    except InputError as error:
        assert "has no embedding that can be read: it has more than one" in str(error)  # noqa: PT017
        assert name in REFUSED_WITHOUT
        return
    trunk = net.get_submodule(path)
    expected = trunk(images.to(next(trunk.parameters()).dtype)).float()
    tolerance = 2e-2 if "16" in name or "auto" in name else 1e-6
    torch.testing.assert_close(backbone(images), expected, rtol=tolerance, atol=tolerance)
    assert name not in REFUSED_WITHOUT


def test_outputs_that_are_no_logits_have_no_head():
    for kind in ("dict", "needs an argument", "another type"):
        with pytest.raises(InputError, match=r"must return logits|cannot run on images"):
            distil(
                Small(),
                FAULTS[kind][0],
                {"rkd": 1.0},
                images=make_batch().images,
                teacher_head="none",
            )
        with pytest.raises(InputError, match=r"must return logits|cannot run on images"):
            distil(Small(), FAULTS[kind][0], {"kd": 1.0}, images=make_batch().images, class_map=[0])


def test_a_headless_transformer_is_no_classifier():
    net = Calls(lambda s, x: s.net(x), net=tiny_vit(5))
    images = torch.randn(2, 3, 16, 16)
    net.net.head, net.net.num_classes = nn.Identity(), None
    expected = net.eval()(images)
    torch.testing.assert_close(as_backbone(net, images)(images), expected)
    read = find_taps(net, images)
    assert read.head == "net.head"
    torch.testing.assert_close(FeatureExtractor(net, read, ("pooled",))(images)["pooled"], expected)


def test_a_named_head_of_crops_is_refused():
    net, images = UNREADABLE["crops in the batch"](), make_batch().images
    with pytest.raises(InputError, match=r"net\.fc gets 4 rows for 2 images.*use losses that read"):
        find_taps(net, images, Taps(maps=(), head="net.fc"))


def test_a_module_with_a_matrix_of_its_own_is_no_wrapper():
    backbone = Small()
    backbone.num_classes = 0
    net = Calls(lambda s, x: s.net(x) @ s.w, net=backbone, w=parameter(5, 5))
    assert unwrap(net) == ("", net)
    distil(net, Small(), {"kd": 1.0}, images=make_batch().images)


class InTraining(nn.Module):
    """A network that does something else in training mode."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.e, self.fc = how, Embed(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.training:
            return self.fc(self.e(x))
        if self.how == "reentrant":
            return self.fc(checkpoint(self.e, x.clone().requires_grad_(), use_reentrant=True))
        found = self.e(x)
        if self.how == "auxiliary":
            return self.fc(found), found
        return self.fc(found.detach())


@pytest.mark.parametrize(
    ("how", "loss", "words"),
    [
        ("detached", "crd", "loss crd gives InTraining no gradient.*in training mode"),
        ("reentrant", "sp", "loss sp gives InTraining no gradient.*in training mode"),
        ("auxiliary", "kd", r"InTraining must return logits.*in training mode, not a tuple.*\[0\]"),
    ],
)
def test_what_is_found_out_in_training_mode_is_refused(how, loss, words):
    batch = make_batch()
    task = distil(InTraining(how), Small(), {"ce": 1.0, loss: 1.0}, **given(loss, batch)).train()
    with pytest.raises(InputError, match=words):
        task(batch)
    with torch.no_grad():
        task.eval()(batch)


def test_checkpointed_layers_learn_and_keep_their_statistics():
    torch.manual_seed(0)
    net = Calls(
        lambda s, x: s.fc(checkpoint(s.e, x, use_reentrant=False)), e=Embed(), fc=nn.Linear(8, 5)
    )
    before, batch = copy.deepcopy(net.state_dict()), make_batch()
    task = distil(net, Small(), {"kd": 1.0, "rkd": 1.0, "at": 1.0}, images=batch.images)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    task.train()(batch).loss.backward()


@pytest.mark.parametrize("how", [torch.round, torch.sign])
def test_a_gradient_of_zero_is_refused(how):
    net = Calls(lambda s, x: s.fc(how(s.e(x))), e=Embed(), fc=nn.Linear(WIDTH, CLASSES))
    batch = make_batch()
    with pytest.raises(InputError, match="loss rkd gives Calls no gradient"):
        distil(net, Small(), {"ce": 1.0, "rkd": 1.0}, images=batch.images)
    distil(net, Small(), {"kd": 1.0}, images=batch.images)(batch).loss.backward()


def test_a_teacher_in_inference_mode_teaches():
    batch = make_batch()
    teacher = Calls(torch.inference_mode()(lambda s, x: s.net(x)), net=Small())
    for loss in ("kd", "crd", "simkd", "sdd"):
        distil(Small(), teacher, {loss: 1.0}, **given(loss, batch))(batch).loss.backward()


def test_a_classifier_that_uses_its_layer_otherwise_is_not_borrowed():
    teacher = nn.Sequential(Embed(), Arc())
    with pytest.raises(InputError, match="must be one linear layer; Arc computes something else"):
        distil(Small(), teacher, {"simkd": 1.0}, images=make_batch().images)


SUPERVISED = {
    "auxiliary": (lambda: InTraining("auxiliary"), "logits .* in training mode, not a tuple"),
    "frozen": (lambda: Small().requires_grad_(False), "Small has no trainable parameter"),
    "no gradient": (
        lambda: Calls(torch.no_grad()(lambda s, x: s.net(x)), net=Small()),
        "no trainable parameter of Calls affects it",
    ),
    "constant": (lambda: Calls(lambda _, x: x.mean((2, 3))), "Calls has no trainable parameter"),
}


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_network_that_cannot_be_trained_alone_is_named(name):
    build, words = SUPERVISED[name]
    batch, hparams = make_batch(classes=3), Hyperparameters(epochs=1, learning_rate=0.1)
    with pytest.raises(InputError, match=words):
        Trainer(Supervised(build(), CE()), hparams).training_step(batch, 0.0, 1)


FAULTS = {
    "needs an argument": (Calls(lambda s, _: s.net(), net=Small()), "missing 1 required"),
    "other images": (Calls(lambda s, x: s.net(x[:, :1]), net=Small()), "to have 3 channels"),
    "another type": (Small().bfloat16(), r"of torch\.float32.*BFloat16"),
    "fewer rows": (Calls(lambda s, x: s.net(x)[:1], net=Small()), r"2-d tensor \(1, 5\) for 2 im"),
    "maps": (nn.Conv2d(3, 4, 3), r"4-d tensor.*set its `num_classes` to 0"),
    "list": (Calls(lambda s, x: [s.net(x)], net=Small()), r"a list.*self\.net\(images\)\[-1\]"),
    "dict": (Calls(lambda s, x: {"y": s.net(x)}, net=Small()), r'a dict.*\(images\)\["logits"\]'),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_that_cannot_be_run_is_named(name, role):
    net, words = FAULTS[name]
    nets = {"student": Small(), "teacher": Small(), role: net}
    with pytest.raises(InputError, match=rf"{type(net).__name__} .*{words}"):
        distil(**nets, weights={"kd": 1.0}, images=make_batch().images)


def test_a_network_of_no_classes_may_return_maps():
    net, batch = Calls(lambda s, x: s.e(x), e=wide()), make_batch()
    net.num_classes = 0
    task = distil(net, Small(), {"rkd": 1.0}, images=batch.images)
    task(batch).loss.backward()
    assert task.deployed() is net


def test_a_network_that_is_compiled_in_place_is_refused():
    net = Small()
    net.compile(backend="eager")
    with pytest.raises(InputError, match=r"leave `net\.compile\(\)` out"):
        distil(Small(), net, {"kd": 1.0}, images=make_batch().images)
