"""Write run folders as training does, without training."""

import random

from distillers.config.run_files import dump_json, dump_metrics
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.training.recorder import RunRecorder

TEACHER = "resnet20"


def interrupt_after(patch, epoch):
    """Interrupt a run, as Ctrl-C does, when it has recorded an epoch."""
    end = RunRecorder.on_epoch_end

    def stop(self, row, state, deployed):
        end(self, row, state, deployed)
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    patch.setattr(RunRecorder, "on_epoch_end", stop)


def write_run(
    root,
    method=None,
    *,
    trial=0,
    accuracies=(50.0, 60.0),
    held_out=None,
    settings=None,
    departures=None,
    summary=None,
    name=None,
    **flags,
):
    """Write the folder of a finished run and return it; without a method of a network alone.

    `flags` and `summary` override the content of config.json and summary.json.
    """
    shared = {"trial": trial, "dataset": "digits", "protocol": "crd", "epochs": len(accuracies)}
    shared["save_dir"] = str(root / "save")
    if method:
        config = StudentConfig(
            **{"model_s": "resnet8", "path_t": "t.pth", **shared, **flags}, distill=method
        )
        folder = config.folder(1, 0, 1, TEACHER)
    else:
        config = TeacherConfig(**{"model": "resnet8", **shared, **flags})
        folder = config.folder()
    folder = root / "save" / name if name else folder
    folder.mkdir(parents=True)
    write(folder, "config.json", config.as_json_types())
    write(folder, "environment.json", {"python": "3.11.9", "torch": "2.15.0", "revision": "abc"})
    rows = [
        {
            "epoch": epoch,
            "train_loss": 1.0,
            "images_per_second": 1000.0 + 100 * epoch + trial,
            "lr": 0.05,
            "test_loss": 1.0,
            "test_acc": accuracy,
            "test_acc_top5": 99.0,
        }
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    for row, accuracy in zip(rows, held_out or (), strict=False):
        row["val_acc"] = accuracy
    (folder / "metrics.jsonl").write_bytes(dump_metrics(rows))
    content = {
        "data": "12" * 32,
        "parameters": 78042,
        "macs": 12501632,
        "latency_ms": 1.25 + trial / 8,
        "busy_cores": None,
        "device": "cpu",
        "devices": 1,
        "cpu_threads": 2,
        "hours": 0.5 + trial / 16,
        "peak_memory_mib": 900.0 + trial,
    }
    if method:
        content |= {
            "teacher": TEACHER,
            "teacher_sha256": "ab" * 32,
            "teacher_accuracy": 93.0,
            "settings": settings or {"ce": 1.0, method: 0.5, f"{method}.option": 1},
            "departures": departures or {},
        }
    write(folder, "summary.json", {**content, **(summary or {})})
    return folder


def write(folder, name, content):
    """Write a JSON file of a run folder, with the checksum of its content."""
    content = {key: value for key, value in content.items() if key != "sha256"}
    (folder / name).write_bytes(dump_json(content))


def corrupt(content: bytes, rng: random.Random) -> bytes:
    """Flip, insert, delete, swap or cut bytes, or exchange a digit."""
    data = bytearray(content)
    place = rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        data.insert(place, rng.randrange(256))
    elif kind == 3:
        del data[place : place + rng.randrange(1, 20)]
    elif kind == 4:
        del data[place:]
    elif kind == 5:
        digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
        data[rng.choice(digits or [place])] = ord(str(rng.randrange(10)))
    else:
        lines = data.split(b"\n")
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
        data = bytearray(b"\n".join(lines))
    return bytes(data)
