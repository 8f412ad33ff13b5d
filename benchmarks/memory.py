"""Peak memory of a student's run on photographs against a plain loop over the same networks.

    python benchmarks/memory.py [--size 224] [--images 320] [--workers 2]

Both read the same JPEGs of 500 x 375 and train two epochs of KD at batch 64 from a ResNet-18 to a
MobileNetV3 of timm, and evaluate after each. The plain loop is what most scripts do: torchvision's
`ImageFolder` and a `DataLoader`. Peaks are of the main process (resident) and of all its processes
(proportional set size, so that shared pages count once), in MiB. Linux only.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

TEACHER, STUDENT = "resnet18", "mobilenetv3_small_100"
NUM_CLASSES, BATCH_SIZE, EPOCHS, NUM_TEST = 10, 64, 2, 128
ROOT = Path(__file__).parent.parent
photographs = importlib.import_module("folder")  # a script beside this one


def compare(size: int, images: int, workers: int) -> None:
    """Run both, one after the other, and print their peaks."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photographs.write_images(folder / "photographs", images)
        test = folder / "photographs" / "val"
        for path in sorted((folder / "photographs" / "train").glob("*/*.jpg"))[:NUM_TEST]:
            (test / path.parent.name / f"copy{path.name}").write_bytes(path.read_bytes())
        torch.save(
            timm.create_model(TEACHER, num_classes=NUM_CLASSES).state_dict(), folder / "t.pth"
        )
        plain = [sys.executable, __file__, "--plain", scratch, "--size", str(size)]
        flags = (
            f"--dataset folder --data_dir {scratch}/photographs --image_size {size} --distill kd "
            f"--path_t {scratch}/t.pth --model_t timm:{TEACHER} --model_s timm:{STUDENT} "
            f"--epochs {EPOCHS} --batch_size {BATCH_SIZE} --num_workers {workers} --gpu_id cpu "
            f"--lr_decay_epochs 1 --save_dir {scratch}/save"
        )
        ours = [sys.executable, str(ROOT / "train_student.py"), *flags.split()]
        peaks = {
            "plain loop": measure_peaks([*plain, "--workers", str(workers)]),
            "distillers": measure_peaks(ours),
        }
    for name, (main, total) in peaks.items():
        print(f"{name:12} main process {main:6,.0f} MiB, all processes {total:6,.0f} MiB")
    ratios = [b / a for a, b in zip(*peaks.values(), strict=True)]
    print(f"ratio: main process {ratios[0]:.2f}, all processes {ratios[1]:.2f}")


def measure_peaks(command: list[str]) -> tuple[float, float]:
    """Return the peaks of a command: its process, and all of its processes, in MiB."""
    process = subprocess.Popen(command)
    main = total = 0.0
    while process.poll() is None:
        main = max(main, read_mib(process.pid, "status", "VmHWM"))
        total = max(
            total, sum(read_mib(pid, "smaps_rollup", "Pss") for pid in process_tree(process.pid))
        )
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return main, total


def process_tree(pid: int) -> list[int]:
    """Return a process and all that it started."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # it has ended
            continue
        found += [each for child in children for each in process_tree(int(child))]
    return found


def read_mib(pid: int, file: str, name: str) -> float:
    """Return a line of a file of /proc; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0.0
    return int(text.split(f"{name}:")[1].split()[0]) / 1024 if f"{name}:" in text else 0.0


def train_plainly(folder: Path, size: int, workers: int) -> None:
    """Train with a plain loop, as a short script would."""
    teacher = timm.create_model(TEACHER, num_classes=NUM_CLASSES)
    teacher.load_state_dict(torch.load(folder / "t.pth"))
    teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    student = timm.create_model(STUDENT, num_classes=NUM_CLASSES)
    student.to(memory_format=torch.channels_last)
    loaders = {
        part: build_loader(folder / "photographs", part, size, workers) for part in ("train", "val")
    }
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(EPOCHS):
        student.train()
        for images, labels in loaders["train"]:
            with torch.no_grad():
                soft = (teacher(images) / 4).softmax(1)
            logits = student(images)
            kd = F.kl_div((logits / 4).log_softmax(1), soft, reduction="batchmean") * 16
            (F.cross_entropy(logits, labels) + kd).backward()
            optimizer.step()
            optimizer.zero_grad()
        student.eval()
        with torch.no_grad():
            for images, _ in loaders["val"]:
                student(images)


def build_loader(root: Path, part: str, size: int, workers: int) -> DataLoader:
    """Return torchvision's usual loader of training or test images."""
    if part == "train":
        crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    else:
        crop = [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)]
    transform = transforms.Compose(
        [*crop, transforms.ToTensor(), transforms.Normalize(photographs.MEAN, photographs.STD)]
    )
    return DataLoader(
        datasets.ImageFolder(str(root / part), transform),
        batch_size=BATCH_SIZE,
        shuffle=part == "train",
        num_workers=workers,
        persistent_workers=workers > 0,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain", type=Path)
    given = parser.parse_args()
    if given.plain:
        train_plainly(given.plain, given.size, given.workers)
    else:
        compare(given.size, given.images, given.workers)
