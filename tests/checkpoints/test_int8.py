"""int8 files: weights by a second derivation, layers kept in float, figures of the saved file."""

import json

import numpy as np
import pytest
import torch

from distillers import data, models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.errors import InputError
from distillers.training.int8_export import calibration_images
from tests.data.trees import tree

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
int8 = pytest.importorskip("distillers.checkpoints.int8")

CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 16, "dataset": "digits"}
CARD |= {"mean": [0.3], "std": [0.4], "class_names": [str(n) for n in range(10)]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    net = models.create("resnet8", num_classes=10, image_size=16)
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder / "resnet8_best.pth", {"model": net.state_dict(), "card": CARD})
    return folder


@pytest.fixture(scope="module")
def full(run):
    """Its float ONNX file."""
    path = run / "float.onnx"
    assert cli.run("export", [str(run), "--format", "onnx", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def quantizer(full, tmp_path_factory):
    images = calibration_images(data.source_of("digits").resized(16), CARD, 64)
    return int8.Quantizer(full, images, tmp_path_factory.mktemp("int8"))


def tensors(path):
    return {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer
    }


def test_weights_are_int8_with_a_scale_for_each_output_channel(full, quantizer, tmp_path):
    quantizer.write(tmp_path / "small.onnx")
    before, after = tensors(full), tensors(tmp_path / "small.onnx")
    assert len(quantizer.layers) == 10
    for layer in quantizer.layers:
        weight = before[f"net.{layer}.weight"]
        largest = np.abs(weight.reshape(len(weight), -1)).max(1)
        scale = after[f"net.{layer}.weight_scale"]
        np.testing.assert_allclose(scale, largest / 127, rtol=1e-5)
        stored = after[f"net.{layer}.weight_quantized"]
        assert stored.dtype == np.int8
        shape = (-1, *[1] * (weight.ndim - 1))
        error = np.abs(stored * scale.reshape(shape) - weight) / scale.reshape(shape)
        assert error.max() <= 0.5 + 1e-3
    assert (tmp_path / "small.onnx").stat().st_size < 0.4 * full.stat().st_size
    kinds = {node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node}
    assert "BatchNormalization" not in kinds


def test_a_file_without_needless_names_and_zero_points_gives_the_same_logits(quantizer, tmp_path):
    first, second = (tmp_path / f"{name}.onnx" for name in ("whole", "compact"))
    quantizer.write(first)
    second.write_bytes(first.read_bytes())
    int8.write_card(second, CARD)
    assert second.stat().st_size < 0.95 * first.stat().st_size
    images = torch.randn(4, 3, 16, 16)
    np.testing.assert_array_equal(int8.run(first, images), int8.run(second, images))
    model = onnx.load(second)
    onnx.checker.check_model(model)
    weights = {each.name for each in model.graph.initializer}
    assert weights == {name for node in model.graph.node for name in node.input} & weights
    assert "net.conv1.weight_quantized" in weights


def test_an_input_and_an_output_that_are_left_out_stay_so():
    nodes = [
        onnx.helper.make_node("Dropout", ["x"], ["kept", ""]),
        onnx.helper.make_node("Resize", ["kept", "", "scales"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "odd", [], [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph)
    int8._compact(model)
    assert [list(node.input) for node in model.graph.node] == [["x"], ["_0", "", "scales"]]


def test_layers_are_kept_in_float(quantizer, tmp_path):
    quantizer.write(tmp_path / "small.onnx", ["fc", "conv1"])
    found = tensors(tmp_path / "small.onnx")
    for layer in quantizer.layers:
        assert (f"net.{layer}.weight" in found) == (layer in ("fc", "conv1"))
    with pytest.raises(InputError, match=r"no layer 'fd', did you mean 'fc'"):
        quantizer.write(tmp_path / "small.onnx", ["fd"])


def test_nothing_rounds_between_layers_in_float(quantizer, tmp_path):
    quantizer.write(tmp_path / "same.onnx", list(quantizer.layers))
    logits = int8.run(tmp_path / "same.onnx", quantizer._images)
    np.testing.assert_allclose(logits, quantizer.logits, rtol=1e-4, atol=1e-4)


def test_the_layer_that_quantisation_harms_is_found_and_kept(
    full, quantizer, tmp_path, monkeypatch
):
    """An outlier in a channel leaves one step to all of its other weights."""
    model = onnx.load(full)
    (weight,) = (w for w in model.graph.initializer if w.name == "net.layer2.0.conv2.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 0, 0, 0] = 40.0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "spoilt.onnx")
    spoilt = int8.Quantizer(tmp_path / "spoilt.onnx", quantizer._images, tmp_path)
    ranked = spoilt.sensitivities()
    assert ranked[0].layer == "layer2.0.conv2"
    assert ranked[0].divergence > 10 * ranked[1].divergence
    monkeypatch.setattr(int8, "MAX_DIVERGENCE", (ranked[0].divergence + ranked[1].divergence) / 2)
    assert spoilt.choose_kept(ranked) == ["layer2.0.conv2"]
    monkeypatch.setattr(int8, "MAX_DIVERGENCE", 0.0)
    with pytest.raises(InputError, match=r"even with its 5 most sensitive layers in float"):
        spoilt.choose_kept(ranked)
    monkeypatch.undo()
    assert quantizer.choose_kept(quantizer.sensitivities()) == []


def test_the_divergence_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, second))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert int8.divergence(first, second) == pytest.approx(expected, rel=1e-5)


def test_what_is_printed_is_measured_on_the_saved_file(run, tmp_path, capsys):
    out = tmp_path / "small.onnx"
    flags = ["--format", "onnx", "--int8", "static", "--int8_images", "64", "--out", str(out)]
    assert cli.run("export", [str(run), *flags]) == 0
    printed = capsys.readouterr().out
    assert cli.run("evaluate", [str(out), "--json", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert f"test_acc        {found['metrics']['test_acc']!r} " in printed
    assert f"file_bytes      {found['file_bytes']} " in printed
    card = int8_card(out)
    assert card["accuracy"] == found["metrics"]["test_acc"]
    assert card["int8"]["calibration_images"] == 64


def int8_card(path):
    (entry,) = (e for e in onnx.load(path).metadata_props if e.key == "card")
    return json.loads(entry.value)


def test_calibration_images_are_of_all_classes_and_prepared_as_in_evaluation(tmp_path):
    source = data.source_of("folder", tree(tmp_path), reading=data.DecodeOptions(image_size=32))
    card = {"image_size": 24, "mean": [0.5] * 3, "std": [0.5] * 3}
    few, every = calibration_images(source, card, 6), calibration_images(source, card, 100)
    assert tuple(few.shape) == (6, 3, 24, 24)
    assert tuple(every.shape) == (18, 3, 24, 24)
    rows = [next(n for n, other in enumerate(every) if torch.equal(image, other)) for image in few]
    assert [row // 6 for row in rows] == [0, 0, 1, 1, 2, 2]
    assert every.min() >= -1
    assert every.max() <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--int8", "static"], "--int8 is for --format onnx"),
        (["--format", "onnx", "--int8_keep", "auto"], "--int8_keep is for --int8 static"),
        (["--format", "onnx", "--int8", "static", "--int8_keep", "nowhere"], "no layer 'nowhere'"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, words, run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.onnx")] if "onnx" in flags else []
    assert cli.run("export", [str(run), *flags, *out]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()
