"""OpenVINO IR: what its own runtime computes, and what is refused."""

import pytest
import torch

import distillers
from distillers import data, models
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints import onnx
from distillers.cli import main as cli
from distillers.errors import CorruptFileError, InputError

DIGITS = data.load("digits")


def checkpoint_of(folder):
    torch.manual_seed(0)
    card = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 32}
    card |= {"dataset": "digits", "mean": list(DIGITS.mean), "std": list(DIGITS.std)}
    net = models.create("resnet8", num_classes=10)
    checkpoint.save(folder / "x.pth", {"model": net.state_dict(), "card": card})
    return str(folder / "x.pth")


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    path = checkpoint_of(tmp_path)
    find_spec = onnx.find_spec
    monkeypatch.setattr(
        onnx, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    assert cli.run("export", [path, "--format", "openvino"]) == 2
    assert 'pip install -e ".[openvino]"' in capsys.readouterr().err
    (tmp_path / "x.xml").write_text('<?xml version="1.0"?>')
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install -e \"\.\[openvino\]\""):
        distillers.load(tmp_path / "x.xml")


def test_int8_is_for_onnx(tmp_path, capsys):
    flags = ["--format", "openvino", "--int8", "static"]
    assert cli.run("export", [checkpoint_of(tmp_path), *flags]) == 2
    assert "--int8 is for --format onnx, not openvino" in capsys.readouterr().err


def test_openvino_scores_as_pytorch_and_damage_is_found(tmp_path, capsys):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    path = checkpoint_of(tmp_path)
    assert cli.run("export", [path, "--format", "openvino"]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.bin", "x.pth", "x.xml"]
    graph, weights = tmp_path / "x.xml", tmp_path / "x.bin"
    rows = []
    for name in (path, str(graph)):
        capsys.readouterr()
        assert cli.run("evaluate", [name]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows.append([line for line in lines if line.startswith(("test_acc", "parameters"))])
    size = graph.stat().st_size + weights.stat().st_size
    assert any(line.split() == ["file_bytes", str(size)] for line in lines)
    assert rows[0] == rows[1]
    assert rows[0]
    (tmp_path / "moved.xml").write_bytes(graph.read_bytes())
    with pytest.raises(InputError, match=r"moved.bin is missing"):
        distillers.load(tmp_path / "moved.xml")
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptFileError, match="checksum"):
        distillers.load(graph)
    (tmp_path / "y.xml").write_text("<?xml version='1.0'?><net/>")
    (tmp_path / "y.bin").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="not OpenVINO IR"):
        distillers.load(tmp_path / "y.xml")
