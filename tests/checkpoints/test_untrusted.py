"""Files from strangers: what is no checkpoint is said, and none runs code when it is opened."""

import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from torch import nn

import distillers
from distillers import models
from distillers.checkpoints import checksum, openvino
from distillers.checkpoints import export as exporting
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.card import complete_card
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.program import read_program
from distillers.cli import main as cli
from distillers.errors import InputError
from tests.nets import tiny

CARD = {
    "format": 1,
    "model": "resnet8",
    "num_classes": 10,
    "image_size": 32,
    "dataset": "digits",
    "mean": [0.5] * 3,
    "std": [0.2] * 3,
    "class_names": [str(n) for n in range(10)],
}
SUFFIX = exporting.SUFFIXES


def image(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, kind)
    return buffer.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def array():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def safetensors_file(**state):
    return safetensors.torch.save(state or {"w": torch.zeros(10, 4)})


def whole_network():
    buffer = io.BytesIO()
    torch.save(nn.Linear(3, 2), buffer)
    return buffer.getvalue()


def script():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), buffer)
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"
# each: content, and what the message must say
JUNK = {
    "empty": (b"", "empty"),
    "zeros": (bytes(5000), "zeros"),
    "text": (b"hello", "text that begins with 'hello'"),
    "unicode": ("Übung ".encode() * 200, "text"),
    "json": (b'{"model": "resnet8"}', "text"),
    "web page": (b"\n <!DOCTYPE html>\n<html><body>404</body>", "web page.*direct link"),
    "web page of old": (b"<HTML><head>", "web page"),
    "LFS": (POINTER, "git lfs pull"),
    "JPEG": (image("JPEG"), "JPEG image"),
    "PNG": (image("PNG"), "PNG image"),
    "GIF": (image("GIF"), "GIF image"),
    "WebP": (image("WebP"), "WebP image"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(90), "gzip archive. Extract"),
    "zip": (zipped(**{"a/model.pth": b"1"}), "ZIP archive. Extract"),
    "npz": (zipped(**{"w.npy": array()}), "NumPy archive"),
    "npy": (array(), "NumPy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "Keras"),
    "noise": (np.random.default_rng(0).bytes(3000), "damaged or not a checkpoint"),
    "pickle": (pickle.dumps({"a": [1, 2]}), "damaged or not a checkpoint|no state dict"),
    "pickled class": (pickle.dumps(Path("x")), "damaged|not a state dict"),
    "network": (whole_network(), r"Python objects.*Linear.*torch\.save\(net\.state_dict"),
    "bomb": (b"", "grows more than"),
}


@pytest.mark.parametrize("kind", [*JUNK, "script"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt2"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_is_no_checkpoint_is_said_in_a_line(kind, suffix, tmp_path, capsys):
    content, words = JUNK.get(kind, (b"", "TorchScript.*torch.jit.load"))
    path = tmp_path / f"x{suffix}"
    if kind == "script":
        content = script()
    if kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", bytes(10**7))
    else:
        path.write_bytes(content)
    if suffix != ".pth":
        words = "damaged|not a state dict"
    with pytest.raises(InputError, match=words) as caught:
        load(path, model="resnet8")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    status = cli.run("evaluate", [str(path), "--model", "resnet8", "--dataset", "digits"])
    assert (status, capsys.readouterr().err.count("\n")) == (2, 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_advice_for_a_script_and_a_network_works(tmp_path):
    net = models.create("resnet8", num_classes=10).eval()
    torch.save(net.state_dict(), tmp_path / "a.pth")
    assert load(tmp_path / "a.pth", model="resnet8").card["num_classes"] == 10
    torch.jit.trace(net, torch.randn(1, 3, 32, 32)).save(tmp_path / "script.pt")
    torch.save(torch.jit.load(tmp_path / "script.pt").state_dict(), tmp_path / "b.pth")
    loaded = load(tmp_path / "b.pth", model="resnet8")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), net(images))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_safetensors_under_another_name_are_read(suffix, tmp_path):
    net = models.create("resnet8", num_classes=10)
    (tmp_path / f"x{suffix}").write_bytes(safetensors_file(**net.state_dict()))
    assert torch.equal(load(tmp_path / f"x{suffix}", model="resnet8").net.fc.weight, net.fc.weight)


def test_a_header_whose_length_looks_like_gzip_is_read(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x8B1F)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert checkpoint.read(path)["model"]["w"].item() == 0


def test_safetensors_cut_short_are_refused(tmp_path):
    content = safetensors_file(**models.create("resnet8", num_classes=10).state_dict())
    for size in (1, 7, 9, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "x.safetensors").write_bytes(content[:size])
        with pytest.raises(InputError, match="damaged"):
            load(tmp_path / "x.safetensors", model="resnet8")


def exported(folder, form="safetensors", **entries):
    """A file of a network with a card."""
    net = models.create("resnet8", num_classes=10).eval()
    classifier = Classifier(net, CARD | entries)
    card = complete_card(classifier)
    path = folder / f"x{SUFFIX[form]}"
    exporting.export(classifier, card, path, form, torch.randn(3, 3, 32, 32))
    return path, classifier


VALUES = {
    "format": [0, "1", 1.5, True],
    "model": [3, "", ["resnet8"], "a\nb", "x" * 2000],
    "num_classes": [10**12, -1, 0, "10", 10.0, True, float("nan"), [10]],
    "image_size": [-1, 0, 10**6, "32", 32.5, [32, 32]],
    "shorter_side": [-1, "x", 10**9],
    "class_names": ["0123456789", [1] * 10, ["a"] * 9, {}],
    "mean": [0.5, "0.5", [], ["a"] * 3, [float("nan")] * 3, [0.5] * 99],
    "std": [0, [0.0] * 3, [-1.0] * 3, [float("inf")] * 3, None.__class__],
    "channels_last": [1, "yes"],
    "dataset": [7, ""],
    "accuracy": [101.0, "91", float("nan")],
    "parameters": [-1, "many"],
    "deploy": [[1], "simkd", {"name": 3}, {"name": "simkd"}, {"name": "simkd", "cut": 1}],
    "distilled": [1, [2]],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_card_out_of_range_is_refused_in_a_line(name, tmp_path):
    state = models.create("resnet8", num_classes=10).state_dict()
    for value in VALUES[name]:
        if isinstance(value, type):
            continue
        checkpoint.save(tmp_path / "x.pth", {"model": state, "card": {**CARD, name: value}})
        with pytest.raises(InputError) as caught:
            load(tmp_path / "x.pth")
        assert str(tmp_path) in str(caught.value)
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("card", [[1], "card", 3, {1: 2}, {"model": {"a": 1}}])
def test_a_card_that_is_no_mapping_of_names_is_refused(card, tmp_path):
    state = models.create("resnet8", num_classes=10).state_dict()
    checkpoint.save(tmp_path / "x.pth", {"model": state, "card": card})
    with pytest.raises(InputError, match="card"):
        load(tmp_path / "x.pth")


STATES = {
    "numbers": lambda state: dict(enumerate(state.values())),
    "complex": lambda state: state | {"fc.weight": state["fc.weight"] * 1j},
    "sparse": lambda state: state | {"fc.weight": state["fc.weight"].to_sparse()},
    "list": lambda state: list(state.values()),
    "none": lambda _: None,
}


@pytest.mark.parametrize("has_card", [True, False])
@pytest.mark.parametrize("kind", STATES)
def test_weights_of_another_kind_are_refused(kind, has_card, tmp_path):
    state = STATES[kind](models.create("resnet8", num_classes=10).state_dict())
    payload = {"model": state, "card": CARD} if has_card else {"model": state}
    checkpoint.save(tmp_path / "x.pth", payload)
    with pytest.raises(InputError, match=r"x\.pth has no state dict"):
        load(tmp_path / "x.pth", model="resnet8")


def shared(levels, width=1000):
    """A mapping of a few objects that would be `width` ** `levels` when written out."""
    inner = {"a": 1}
    for _ in range(levels):
        inner = {str(n): inner for n in range(width)}
    return inner


@pytest.mark.timeout(60)
def test_objects_in_many_places_take_no_time(tmp_path):
    state = models.create("resnet8", num_classes=10).state_dict()
    torch.save({"model": state, "extra": shared(4)}, tmp_path / "x.pth")
    assert load(tmp_path / "x.pth", model="resnet8").card["num_classes"] == 10
    checkpoint.save(tmp_path / "x.pth", {"model": state, "card": {**CARD, "deploy": shared(4)}})
    with pytest.raises(InputError, match="values"):
        load(tmp_path / "x.pth")
    cyclic = {"epoch": 3}
    cyclic["self"] = cyclic
    torch.save(cyclic, tmp_path / "x.pth")
    with pytest.raises(InputError, match="no state dict"):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False])
def test_files_of_old_versions_of_pytorch_are_read_and_checked(new, tmp_path):
    net = models.create("resnet8", num_classes=10)
    path = tmp_path / "x.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=new)
    assert torch.equal(load(path, model="resnet8").net.fc.weight, net.fc.weight)
    torch.save(Evil(tmp_path / "ran"), path, _use_new_zipfile_serialization=new)
    with pytest.raises(InputError):
        load(path, model="resnet8")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["timm:vit_giant_patch14_224", "ResNet50", "wrn_40_2"])
def test_a_card_of_another_network_takes_no_memory(name, tmp_path, monkeypatch):
    state = models.create("resnet8", num_classes=10).state_dict()
    checkpoint.save(tmp_path / "x.pth", {"model": state, "card": {**CARD, "model": name}})
    devices = []
    register = nn.Module.register_parameter

    def watch(self, key, parameter):
        devices.append(parameter.device.type if parameter is not None else "meta")
        register(self, key, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", watch)
    with pytest.raises(InputError, match="does not fit"):
        load(tmp_path / "x.pth")
    assert set(devices) == {"meta"}


TRAP = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
def net(num_classes=10): ...
"""


@pytest.mark.parametrize("form", ["checkpoint", "safetensors"])
def test_no_command_imports_what_a_card_names(form, tmp_path, monkeypatch, capsys):
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    card = {**CARD, "model": "trap:net"}
    net = models.create("resnet8", num_classes=10)
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "trap_best.pth"
    if form == "safetensors":
        path = folder / "x.safetensors"
        exporting.write_safetensors(net, card, path)
    else:
        checkpoint.save(path, {"model": net.state_dict(), "card": card})
    grid = {"pairs": [f"{path} -> resnet8"], "methods": ["kd"], "trials": [1]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    commands = [
        ["evaluate", str(path)],
        ["evaluate", str(folder)],
        ["export", str(path)],
        ["figures", str(path)],
        ["transfer", "--path_s", str(path), "--dataset", "digits"],
        ["student", "--path_t", str(path), "--dataset", "digits", "--model_s", "resnet8"],
        ["teacher", "--pretrained", str(path), "--dataset", "digits", "--model", "resnet8"],
        ["sweep", "grid.yaml", "--dry_run"],
        ["report", str(folder)],
    ]
    for words in commands:
        cli.run(words[0], words[1:])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert words[0] != "sweep" or "trap:net" in err  # the grid is right
    assert not (tmp_path / "ran").exists()
    assert "trap" not in sys.modules


def test_the_user_may_name_the_code_that_a_card_names(tmp_path):
    net = tiny(num_classes=5)
    card = {**CARD, "model": "tests.nets:tiny", "num_classes": 5, "class_names": list("abcde")}
    checkpoint.save(tmp_path / "x.pth", {"model": net.state_dict(), "card": card})
    assert load(tmp_path / "x.pth", model="tests.nets:tiny").card["num_classes"] == 5
    with pytest.raises(InputError, match="code outside"):
        load(tmp_path / "x.pth", model="resnet8")


class Evil:
    """A pickle that would make a folder when it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def rewritten(path, change):
    """Apply `change` to the members of the archive, {name without root: bytes}."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    inner = {name.partition("/")[2]: content for name, content in members.items()}
    change(inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in inner.items():
            archive.writestr(f"{root}/{name}", content)


def in_model(change):
    def edit(members):
        model = json.loads(members["models/model.json"])
        change(model)
        members["models/model.json"] = json.dumps(model).encode()

    return edit


def change_samples(evil):
    def edit(members):
        buffer = io.BytesIO()
        torch.save(({"x": evil},), buffer)
        members["data/sample_inputs/model.pt"] = buffer.getvalue()

    return edit


def change_weight(evil):
    def edit(members):
        config = json.loads(members["data/weights/model_weights_config.json"])
        next(iter(config["config"].values()))["use_pickle"] = True
        members["data/weights/model_weights_config.json"] = json.dumps(config).encode()
        buffer = io.BytesIO()
        torch.save(evil, buffer)
        members["data/weights/weight_0"] = buffer.getvalue()

    return edit


def change_target(name):
    def edit(model):
        nodes = model["graph_module"]["graph"]["nodes"]
        nodes[-1]["target"] = name

    return in_model(edit)


def attacks(trap):
    evil = Evil(trap)
    code = f"__import__('os').mkdir('{trap}')"
    yield "sample inputs", change_samples(evil)
    yield "pickled weight", change_weight(evil)
    yield "opaque", lambda m: m.update({"data/constants/opaque_obj_0": pickle.dumps(evil)})
    yield "library", lambda m: m.update({"data/aotinductor/model/x.so": b"\x7fELF"})
    yield "legacy", lambda m: m.update({"data/weights/model.pt": pickle.dumps(evil)})
    yield "function", change_target("torch.os.mkdir")
    yield "file", change_target("torch.ops.aten.from_file.default")
    yield "operator", change_target("_operator.methodcaller")
    yield "guard", in_model(lambda m: m.update(guards_code=[code]))
    yield (
        "name",
        in_model(
            lambda m: m["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name=f"x={code}")
        ),
    )
    yield (
        "expression",
        in_model(
            lambda m: m["graph_module"]["graph"]["sym_int_values"].update(
                s={"as_expr": {"expr_str": code, "hint": None}}
            )
        ),
    )


def test_no_program_runs_code(tmp_path):
    path, _ = exported(tmp_path, "torch_export")
    content = path.read_bytes()
    trap = tmp_path / "ran"
    for kind, change in attacks(trap):
        path.write_bytes(content)
        rewritten(path, change)
        with pytest.raises(InputError):
            load(path)
        assert not trap.exists(), kind
    path.write_bytes(content)
    rewritten(path, dict)  # changes nothing; otherwise it is the same program
    read_program(path)


@pytest.mark.parametrize("form", SUFFIX)
def test_what_is_exported_is_verified_and_holds_no_path_of_the_machine(
    form, tmp_path, monkeypatch, caplog
):
    if form == "openvino":
        pytest.importorskip("openvino")
    if form in ("onnx", "openvino"):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    origin = {"path": str(Path.home() / "secret" / "resnet8_best.pth"), "sha256": "0" * 64}
    path, classifier = exported(tmp_path, form, transferred=origin)
    assert (openvino if form == "openvino" else checksum).check_checksum(path)
    distillers.load(path)
    assert "not verified" not in caplog.text
    contents = [path.read_bytes(), path.name.encode()]
    if form == "torch_export":
        with zipfile.ZipFile(path) as archive:
            contents += [archive.read(name) + name.encode() for name in archive.namelist()]
        contents.append(path.with_suffix(".json").read_bytes())
    project = Path(distillers.__file__).parents[1]
    paths = {Path.home(), project, Path(sys.prefix), Path(nn.__file__).parents[2], tmp_path}
    for folder in paths - {Path("/")}:
        assert not any(os.fsencode(folder) in content for content in contents), folder
    assert not any(b"site-packages" in content for content in contents)
    if form != "safetensors":
        return
    path.write_bytes(safetensors_file(**classifier.net.state_dict()))
    load(path, model="resnet8")
    assert "not verified" in caplog.text
