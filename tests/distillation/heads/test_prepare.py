import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from distillers import distil, models
from distillers.distillation.heads.class_map_file import class_names_of, describe, read_class_map
from distillers.distillation.heads.prepare import prepare_teacher
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork, has_logits
from distillers.features.class_map import ClassMap
from tests.nets import Declared, Small, make_batch

NAMES = ["ant", "bee", "cat", "dog", "eel"]


class Bare(nn.Module):
    """A backbone: its output is the embedding (n, 8), or the map before it."""

    def __init__(self, as_map: bool = False) -> None:
        super().__init__()
        self.net = Small(4)
        self.as_map = as_map

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        found = net.stage2(net.stage1(net.stem(x)))
        return found if self.as_map else found.mean((2, 3))


def teachers() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {
        "classifier": Small(4, 7),
        "declared": Declared(4, 7),
        "backbone": HeadedNetwork(Bare()),
        "maps": HeadedNetwork(Bare(as_map=True)),
        "zoo": models.create("resnet8", 0),
        "timm": models.create("timm:mobilenetv3_small_050", 0, 32),
    }


def embeddings(of: nn.Module, images: Tensor) -> Tensor:
    """Return the embeddings, derived apart from the code that is tested."""
    if not isinstance(of, Small):
        return of.eval()(images)
    found = []
    handle = of.fc.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    of.eval()(images)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("name", list(teachers()))
@torch.no_grad()
def test_a_head_is_fitted_to_the_embeddings_of_any_teacher(name) -> None:
    teacher, batch = teachers()[name], make_batch(30, size=32)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    said: list[str] = []
    ready = prepare_teacher(
        teacher,
        batch.images,
        head="fit",
        num_classes=5,
        labelled=[(batch.images[:20], batch.labels[:20]), (batch.images[20:], batch.labels[20:])],
        say=said.append,
    )
    taken = embeddings(teacher, batch.images)
    torch.testing.assert_close(ready.eval()(batch.images), ready.head(taken), rtol=1e-4, atol=1e-4)
    assert "30 labelled images of 5 classes" in said[0]
    after = teacher.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    with torch.enable_grad():
        task = distil(Small(), ready, {"kd": 1.0, "rkd": 1.0}, images=batch.images)
        task(batch).loss.backward()


@pytest.mark.parametrize("name", list(teachers()))
def test_without_a_head_only_other_losses_are_possible(name) -> None:
    batch, teacher = make_batch(size=32), teachers()[name]
    weights = {"ce": 1.0, "rkd": 1.0}
    task = distil(Small(), teacher, weights, images=batch.images, teacher_head="none")
    assert set(task(batch).parts) == {"ce", "rkd"}
    torch.testing.assert_close(
        task.read_teacher(batch.images)["teacher_pooled"],
        embeddings(teacher, batch.images),
        rtol=1e-4,
        atol=1e-4,
    )
    for loss in ("kd", "simkd", "srrl"):
        with pytest.raises(InputError, match=rf"the loss {loss} needs teacher_.*these need none: "):
            distil(Small(), teacher, {loss: 1.0}, images=batch.images, teacher_head="none")


@pytest.mark.parametrize("name", ["backbone", "zoo", "timm"])
def test_a_student_without_classifier_is_deployed_as_a_backbone(name) -> None:
    batch, student = make_batch(size=32), teachers()[name]
    task = distil(student, Small(5), {"rkd": 1.0, "crd": 1.0}, images=batch.images,
                  train_labels=batch.labels)  # fmt: skip
    step = task(batch)
    step.loss.backward()
    assert step.logits is None
    net = task.deployed()
    assert net is (student.net if isinstance(student, HeadedNetwork) else student)
    with pytest.raises(InputError, match="the loss ce needs student_logits, but the student"):
        distil(student, Small(5), {"ce": 1.0}, images=batch.images)


def test_other_classes_are_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"7 classes and the student has 5.*--class_map FILE"):
        distil(Small(), Small(4, 7), {"kd": 1.0}, images=make_batch().images)


def test_classes_are_summed_many_to_one() -> None:
    logits = 5 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
    found = ClassMap([1, 0, -1, 1, 1, 0], 2)(logits).softmax(1)
    p = logits.softmax(1)
    sums = torch.stack([p[:, 1] + p[:, 5], p[:, 0] + p[:, 3] + p[:, 4]], 1)
    torch.testing.assert_close(found, sums / sums.sum(1, keepdim=True))


def test_a_class_without_a_teacher_class_is_rare_and_finite() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0]])
    found = ClassMap([0, 2, 2], 3)(logits)
    assert torch.isfinite(found).all()
    assert float(found.softmax(1)[0, 1]) == pytest.approx(1e-6, rel=1e-3)
    assert float(found[0, 2]) == pytest.approx(0.0)


def test_the_map_is_applied_to_the_teacher_that_is_distilled() -> None:
    batch, teacher = make_batch(), Small(6, 7)
    assignment = [0, 1, 2, 3, 4, 0, -1]
    task = distil(
        Small(), teacher, {"kd": 1.0, "rkd": 1.0}, images=batch.images, class_map=assignment
    )
    expected = ClassMap(assignment, 5)(teacher(batch.images))
    torch.testing.assert_close(
        task.read_teacher(batch.images)["teacher_logits"], expected, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(InputError, match="the class map is for 6 classes, but Small has 7"):
        distil(Small(), teacher, {"kd": 1.0}, images=batch.images, class_map=assignment[:6])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.yml", "0: ant\n1: bee\ntench: ant\n"),
        ("map.json", '{"ant": [0, "tench"], "bee": ["1"]}'),
        ("map.csv", "0,ant\n1,bee\ntench, ant\n"),
    ],
)
def test_files_of_class_maps(tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text)
    classes = [["x"], ["y"], ["n01440764", "tench", "Tinca tinca"], ["z"]]
    found = read_class_map(tmp_path / name, classes, NAMES)
    assert found == [0, 1, 0, -1]
    assert "3 of the teacher's 4 classes are mapped to 2 of 5; WARNING" in describe(found, NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tenhc: ant", "no class of the teacher 'tenhc', did you mean 'tench'"),
        ("tench: aant", "no class of the images 'aant', did you mean 'ant'"),
        ("tench: ant\n0: bee", "class 0 is mapped to bee and to ant"),
        ("[1, 2]", "must map the teacher's classes"),
        ("tench:", "mapped to None"),
    ],
)
def test_wrong_class_maps_are_refused(tmp_path, text, message) -> None:
    path = tmp_path / "map.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_map(path, [["tench"], ["shark"]], NAMES)
    with pytest.raises(InputError, match=r"map\.yml"):
        read_class_map(path, [["tench"], ["shark"]], NAMES)


def test_the_classes_of_imagenet_have_names() -> None:
    names = class_names_of(1000, None)
    assert names[0] == ["n01440764", "tench, Tinca tinca", "tench", "Tinca tinca"]
    assert class_names_of(3, None) == [[], [], []]


def write_embeddings(path, names=NAMES, width: int = 8, **tensors: Tensor) -> Tensor:
    table = torch.randn(len(names), width, generator=torch.Generator().manual_seed(2))
    metadata = {"class_names": json.dumps(list(names))}
    save_file({"class_embeddings": table, **tensors}, str(path), metadata)
    return table


@pytest.mark.parametrize("name", ["backbone", "classifier"])
@torch.no_grad()
def test_class_embeddings_give_cosine_logits(tmp_path, name) -> None:
    path, teacher, batch = tmp_path / "clip.safetensors", teachers()[name], make_batch(size=32)
    table = write_embeddings(path, logit_scale=torch.tensor(50.0))
    ready = prepare_teacher(teacher, batch.images, head=path, class_names=NAMES)
    taken = embeddings(teacher, batch.images)
    expected = 50 * normalize(taken, dim=1) @ normalize(table, dim=1).T
    torch.testing.assert_close(ready(batch.images), expected)
    other = prepare_teacher(teacher, batch.images, head=path, class_names=NAMES, temperature=0.5)
    torch.testing.assert_close(other(batch.images), expected / 25)
    with torch.enable_grad():
        task = distil(Small(), ready, {"kd": 1.0, "srrl": 1.0}, images=batch.images)
        task(batch).loss.backward()


@torch.no_grad()
def test_class_embeddings_of_the_output_are_those_of_a_projection(tmp_path) -> None:
    teacher, batch = Small(4, 7), make_batch()
    table = write_embeddings(tmp_path / "clip.safetensors", width=7)
    path = tmp_path / "clip.safetensors"
    ready = prepare_teacher(teacher, batch.images, head=path, class_names=NAMES)
    cosines = normalize(teacher.eval()(batch.images), dim=1) @ normalize(table, dim=1).T
    torch.testing.assert_close(ready.eval()(batch.images), 100 * cosines)


def test_rows_of_class_embeddings_are_matched_by_name(tmp_path) -> None:
    path, batch = tmp_path / "clip.safetensors", make_batch()
    order = ["dog", "ant", "fly", "eel", "cat", "bee"]
    table = write_embeddings(path, order)
    said: list[str] = []
    teacher = teachers()["backbone"]
    ready = prepare_teacher(teacher, batch.images, head=path, class_names=NAMES, say=said.append)
    rows = table[[order.index(name) for name in NAMES]]
    torch.testing.assert_close(ready.head.weight, normalize(rows, dim=1))
    assert "order of the data set's classes by name, 1 others left out" in said[0]


def test_wrong_class_embeddings_are_refused(tmp_path) -> None:
    path, images = tmp_path / "clip.safetensors", make_batch().images

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            prepare_teacher(teachers()["backbone"], images, head=path, class_names=NAMES)

    refused("there is no such file; give fit, logistic, none or a file")
    path.write_bytes(b"text")
    refused("no safetensors file of class embeddings")
    write_embeddings(path, width=9)
    refused("width 9, but Bare returns 8")
    write_embeddings(path, ["ants", *NAMES[1:]])
    refused("no class 'ant', did you mean 'ants'")
    save_file({"class_embeddings": torch.randn(5, 8)}, str(path))
    refused("5 rows of class_embeddings and 0 different class_names")
    save_file({"text": torch.randn(5, 8)}, str(path))
    refused(r"no matrix class_embeddings of finite floats; it has text \(5, 8\)")


def test_a_teacher_with_two_classifiers_has_no_embedding() -> None:
    class Two(Small):
        def __init__(self) -> None:
            super().__init__(4, 7)
            self.other = nn.Linear(8, 7)

        def forward(self, x: Tensor) -> Tensor:
            pooled = self.pool(self.stage2(self.stem(x))).flatten(1)
            return self.fc(pooled) + self.other(pooled)

    two = Two()
    two.num_classes = 7
    with pytest.raises(InputError, match="has no embedding that can be read"):
        prepare_teacher(two, make_batch().images, head="none")


def test_what_declares_classes_has_logits() -> None:
    backbone = models.create("timm:mobilenetv3_small_050", 0, 32)
    assert not has_logits(backbone)
    assert has_logits(nn.Sequential(backbone, nn.Linear(1024, 3)))
    assert not has_logits(nn.Sequential(nn.Identity(), backbone))


@torch.no_grad()
@pytest.mark.parametrize("name", ["classifier", "declared", "backbone"])
def test_embeddings_are_standardized_before_the_head(name) -> None:
    batch, teacher = make_batch(40), teachers()[name]
    given = {"labelled": [(batch.images, batch.labels)], "num_classes": 5, "standardize": True}
    ready = prepare_teacher(teacher, batch.images, head="none", **given).eval()
    plain, found = embeddings(teacher, batch.images), ready(batch.images)
    torch.testing.assert_close(found.var(0, correction=0), torch.ones(8), rtol=1e-3, atol=1e-3)
    size = plain.var(0, correction=0).mean()
    expected = torch.cdist(plain, plain).square() / size
    torch.testing.assert_close(torch.cdist(found, found).square(), expected, rtol=1e-2, atol=1e-2)
    fitted = prepare_teacher(teacher, batch.images, head="fit", **given)
    with torch.enable_grad():
        task = distil(Small(), fitted, {"kd": 1.0, "rkd": 1.0}, images=batch.images)
    torch.testing.assert_close(
        task.read_teacher(batch.images)["teacher_pooled"], found, rtol=1e-3, atol=1e-3
    )
    with pytest.raises(InputError, match="standardize is for the heads fit"):
        prepare_teacher(teacher, batch.images, head="keep", **given)
