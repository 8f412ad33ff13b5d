"""Files of other programs: what is beside the weights, what is no weight, and advice that works."""

import collections
import datetime
import decimal
import json
import re
import uuid
from dataclasses import fields

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from distillers import models
from distillers.checkpoints.load import load
from distillers.cli import main as cli
from distillers.cli.commands.audit import AuditConfig
from distillers.cli.commands.compare import CompareConfig
from distillers.cli.commands.compress import CompressConfig
from distillers.cli.commands.evaluate import EvaluateConfig
from distillers.cli.commands.export import ExportConfig
from distillers.cli.commands.predict import PredictConfig
from distillers.config.student import StudentConfig
from distillers.config.transfer import TransferConfig
from distillers.errors import MODEL_FLAGS, InputError
from tests.checkpoints.test_weights_in_files import EMA, NAME, RAW, prefixed

# each: the content of a file, and words of the log
READ = {
    "compiled layers": (
        {k.replace("layer1.", "layer1._orig_mod."): v for k, v in EMA.items()},
        "took its weights;",
    ),
    "checkpointed layers in FSDP": (
        {
            "_fsdp_wrapped_module." + k.replace("layer2.", "layer2._checkpoint_wrapped_module."): v
            for k, v in EMA.items()
        },
        "took its weights;",
    ),
    "DDP around torch.compile": ({"model": prefixed(EMA, "_orig_mod.module.")}, "under model;"),
    "profiled by thop": (
        {**EMA, "total_ops": torch.zeros(1), "layer1.total_ops": torch.zeros(1)},
        "without the numbers total_ops, layer1.total_ops;",
    ),
    "counters of averaged weights": (
        {"net": RAW, "ema": {**prefixed(EMA, "module."), "decay": torch.tensor(0.9)}},
        "under ema, net left out, without the numbers decay;",
    ),
    "plain objects": (
        {
            "state_dict": EMA,
            "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            "sizes": (range(3), slice(1, 2), frozenset([1]), collections.deque([1])),
            "log": collections.defaultdict(list, loss=[1.0]),
            "counts": collections.defaultdict(int, a=1),
            "id": (uuid.UUID(int=1), decimal.Decimal("1.5")),
            "rng": (np.random.default_rng(0).random(2), torch.get_rng_state()),
        },
        "under state_dict;",
    ),
}


@pytest.mark.parametrize("layout", READ)
def test_what_is_beside_the_weights_is_left_out(layout, tmp_path, caplog):
    content, words = READ[layout]
    torch.save(content, tmp_path / "x.pth")
    net = load(tmp_path / "x.pth", model=NAME).net
    assert all(torch.equal(value, EMA[key]) for key, value in net.state_dict().items())
    assert words in caplog.text


class Scaled(nn.Module):
    """A network with a number among its weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.fc = nn.Linear(3, num_classes)


def test_the_bias_of_a_single_class_is_no_counter(tmp_path):
    state = models.create("resnet8", num_classes=1).state_dict()
    torch.save({**state, "n_averaged": torch.tensor(3)}, tmp_path / "w.pth")
    card = load(tmp_path / "w.pth").card
    assert (card["model"], card["num_classes"]) == ("resnet8", 1)


def test_a_number_of_the_network_is_no_counter(tmp_path):
    state = Scaled(4).state_dict() | {"scale": torch.tensor(3.0), "steps": torch.tensor(7)}
    torch.save(state, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", model=f"{__name__}:Scaled")
    assert (loaded.net.scale.item(), loaded.card["num_classes"]) == (3.0, 4)
    save_file({"card": torch.ones(3)} | state, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        load(tmp_path / "x.safetensors", model=f"{__name__}:Scaled")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "qint8", "float8_e4m3fn"])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype, tmp_path):
    weight = RAW["fc.weight"]
    if dtype == "qint8":
        weight = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    else:
        weight = weight.to(getattr(torch, dtype))
    torch.save({**RAW, "fc.weight": weight, "fc.weight_scale": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=rf"fc\.weight as torch\.{dtype}.*dequantize"):
        load(tmp_path / "x.pth", model=NAME)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read_in_float32(dtype, tmp_path):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in RAW.items()}
    torch.save(state, tmp_path / "x.pth")
    net = load(tmp_path / "x.pth", model=NAME).net
    assert net.fc.weight.dtype == torch.float32
    torch.testing.assert_close(net.fc.weight, RAW["fc.weight"].to(dtype).float())


@pytest.mark.parametrize("beside", [{}, RAW])
def test_an_adapter_is_refused_with_what_to_do(beside, tmp_path):
    lora = {f"base_model.model.fc.lora_{each}.default.weight": torch.ones(3, 4) for each in "AB"}
    torch.save(prefixed(beside, "base_model.model.base_layer.") | lora, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"adapter \(LoRA\).*merge_and_unload"):
        load(tmp_path / "x.pth", model=NAME)


REFUSED = {
    "list": ([RAW], "holds a list, not a state dict"),
    "numbered": ({0: RAW}, "no state dict"),
    "in a list": ({"models": [RAW]}, "no state dict.*it has models"),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_a_file_without_a_state_dict_says_how_to_save_one(layout, tmp_path):
    content, words = REFUSED[layout]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=rf"{words}.*torch\.save\(net\.state_dict\(\), NEW_FILE"):
        load(tmp_path / "x.pth", model=NAME)


def of_hub(folder, **changes):
    """Write a repository as timm does."""
    folder.mkdir()
    save_file(RAW, folder / "model.safetensors")
    own = {"input_size": [3, 48, 48], "crop_pct": 0.75, "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3}
    own["interpolation"] = "bicubic"
    config = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": own, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_configuration_of_timm_names_network_images_and_classes(tmp_path, caplog):
    folder = of_hub(tmp_path / "hub", label_names=list("abcde"))
    for path in (folder, folder / "model.safetensors"):
        card = load(path).card
        assert (card["model"], card["num_classes"], card["class_names"]) == (NAME, 5, list("abcde"))
        sizes = [card[name] for name in ("image_size", "shorter_side", "interpolation")]
        assert sizes == [48, 64, "bicubic"]
        assert (card["mean"], card["std"]) == ([0.1, 0.2, 0.3], [0.5] * 3)
    assert "config.json: model timm:test_resnet, class_names (5), mean [0.1, 0.2" in caplog.text
    assert load(folder, model=NAME).card == card
    with pytest.raises(InputError, match="fit"):
        load(folder, model="timm:test_vit")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "os:system"}, "architecture of .* is unknown"),
        ({"architecture": 3}, "architecture of .* is unknown"),
        ({"label_names": ["a"]}, "1 class_names for num_classes 5"),
        ({"pretrained_cfg": {"mean": "x", "std": [1.0]}}, "card in .*config.json is not valid"),
        ({"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "card in .* is not valid"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load(of_hub(tmp_path / "hub", **changes))


def test_a_network_of_transformers_is_called_by_its_library(tmp_path, caplog):
    folder = of_hub(tmp_path / "hub", architecture=None, model_type="vit")
    with pytest.raises(InputError, match=r"architecture of .* is unknown"):
        load(folder)
    assert f"transformers' 'vit': as a teacher, name --path_t transformers:{folder}" in caplog.text


def test_a_configuration_that_is_no_json_is_refused(tmp_path):
    folder = of_hub(tmp_path / "hub")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        load(folder)


def onnx_file(path, operator, output, **attributes):
    """Write a graph of one operator on x (batch, 3, 8, 8)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kind = onnx.TensorProto.INT64 if operator == "ArgMax" else onnx.TensorProto.FLOAT
    taken = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])
    made = onnx.helper.make_tensor_value_info("y", kind, output)
    node = onnx.helper.make_node(operator, ["x"], ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "g", [taken], [made])
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_an_onnx_file_whose_output_is_no_logits_is_refused(tmp_path):
    logits = onnx_file(tmp_path / "x.onnx", "GlobalAveragePool", ["batch", 3, 1, 1])
    with pytest.raises(InputError, match=r"outputs y \['batch', 3, 1, 1\].*logits \(n, classes\)"):
        load(logits)
    flat = onnx_file(tmp_path / "y.onnx", "Flatten", ["batch", 192])
    assert load(flat)(torch.zeros(2, 3, 8, 8)).shape == (2, 192)
    assert load(flat).card["num_classes"] == 192
    best = onnx_file(tmp_path / "z.onnx", "ReduceMax", ["batch"], axes=[1, 2, 3], keepdims=0)
    assert cli.run("evaluate", [str(best), "--dataset", "digits"]) == 2


@pytest.mark.filterwarnings("ignore")
def test_the_advice_for_the_program_of_another_works(tmp_path):
    net = timm.create_model("test_resnet", num_classes=5).eval()
    torch.export.save(torch.export.export(net, (torch.rand(2, 3, 32, 32),)), tmp_path / "x.pt2")
    with pytest.raises(InputError, match="wrote: it has no card") as caught:
        load(tmp_path / "x.pt2")
    found = re.search(r"torch\.save\((.*), NEW_FILE\)", str(caught.value))
    state = eval(found[1], {"torch": torch, "FILE": tmp_path / "x.pt2"})
    torch.save(state, tmp_path / "new.pth")
    assert torch.equal(load(tmp_path / "new.pth", model=NAME).net.fc.weight, net.fc.weight)


def test_a_file_that_does_not_say_how_images_are_prepared_predicts_after_export(tmp_path, capsys):
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), tmp_path / "x.pth")
    (tmp_path / "picture.png").write_bytes(b"")
    words = [str(tmp_path / "x.pth"), str(tmp_path), "--model", NAME, "--gpu_id", "cpu"]
    assert cli.run("predict", words) == 2
    assert "has no image_size to prepare images by; `distillers export" in capsys.readouterr().err
    exported = str(tmp_path / "new.safetensors")
    flags = ["--dataset", "digits", "--model", NAME, "--out", exported]
    assert cli.run("export", [str(tmp_path / "x.pth"), *flags]) == 0
    load(exported).check_preparation()


def test_a_teacher_of_nan_is_refused(tmp_path, capsys):
    torch.save({**RAW, "fc.bias": RAW["fc.bias"] * float("nan")}, tmp_path / "x.pth")
    flags = ["--path_t", str(tmp_path / "x.pth"), "--model_t", NAME, "--model_s", "resnet8"]
    flags += ["--dataset", "digits", "--distill", "kd", "--teacher_head", "fit", "--gpu_id", "cpu"]
    assert cli.run("student", [*flags, "--save_dir", str(tmp_path)]) == 2
    assert "ResNet returns logits that are not finite" in capsys.readouterr().err


def test_the_flags_that_name_the_architecture_exist():
    of_model = (AuditConfig, EvaluateConfig, ExportConfig, PredictConfig)
    expected = [(config, "model") for config in of_model]
    expected += [(StudentConfig, "model_t"), (CompressConfig, "model_t")]
    expected += [(TransferConfig, "model_s")]
    expected += [(CompareConfig, "model_old"), (CompareConfig, "model_new")]
    for config, flag in expected:
        assert f"--{flag}" in MODEL_FLAGS
        assert flag in {field.name for field in fields(config)}
