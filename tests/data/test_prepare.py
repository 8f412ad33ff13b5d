import io
import tarfile
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from distillers import data
from distillers.cli import main as cli
from distillers.data import DecodeOptions
from tests.data.trees import WNIDS, picture, tiny_tree


def jpeg(seed):
    out = io.BytesIO()
    picture(seed).save(out, "JPEG")
    return out.getvalue()


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def train_archive(path):
    with tarfile.open(path, "w") as outer:
        for number, name in enumerate(WNIDS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for i in range(3):
                    add(tar, f"{name}_{i}.JPEG", jpeg(10 * number + i))
            add(outer, f"{name}.tar", inner.getvalue())


def val_archive(path, count=6):
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            add(tar, f"ILSVRC2012_val_{i + 1:08}.JPEG", jpeg(100 + i))


KINDS = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]


def mat(**content):
    out = io.BytesIO()
    savemat(out, content)
    return out.getvalue()


def devkit(path, numbers, meta=None):
    """Three classes and the animal above them, with the fields of the official file."""
    rows = [(i + 1, name, "a fish", 0) for i, name in enumerate(WNIDS)]
    synsets = np.array([*rows, (4, "n00000001", "an animal", 3)], dtype=KINDS)
    meta = mat(synsets=synsets) if meta is None else meta
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta)
        truth = "".join(f"{number}\n" for number in numbers).encode()
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth)


def write_archives(folder):
    folder.mkdir()
    train_archive(folder / "ILSVRC2012_img_train.tar")
    val_archive(folder / "ILSVRC2012_img_val.tar")
    devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [3, 1, 2, 1, 2, 3])
    return folder


@pytest.fixture
def archives(tmp_path):
    return write_archives(tmp_path / "archives")


def prepare(what, archives, *more):
    flags = ["prepare", what, "--from", str(archives), "--to", str(archives.parent / "out")]
    return cli.run("data", [*flags, *more])


def labels(name, root):
    made = data.source_of(name, root, reading=DecodeOptions(image_size=32))
    return made, made.test.labels.tolist()


def test_imagenet_is_unpacked_from_its_archives(archives, capsys):
    assert prepare("imagenet", archives, "--no-check") == 0
    assert "is ready" in capsys.readouterr().out
    out = archives.parent / "out"
    made, tested = labels("imagenet", out)
    assert made.class_names == WNIDS
    assert made.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert tested == [0, 0, 1, 1, 2, 2]
    assert (out / "val" / WNIDS[2] / "ILSVRC2012_val_00000001.JPEG").read_bytes() == jpeg(100)


def test_the_solution_file_does_instead_of_the_devkit(archives):
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    rows = [f"ILSVRC2012_val_{i + 1:08},{WNIDS[i % 3]} 1 2 3 4 \n" for i in range(6)]
    (archives / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    assert prepare("imagenet", archives, "--no-check") == 0
    assert labels("imagenet", archives.parent / "out")[1] == [0, 0, 1, 1, 2, 2]


def test_unpacking_goes_on_where_it_stopped(archives):
    assert prepare("imagenet", archives, "--no-check") == 0
    train = archives.parent / "out" / "train"
    (train / WNIDS[1]).rename(train / f".{WNIDS[1]}.part")
    (train / f".{WNIDS[1]}.part" / f"{WNIDS[1]}_0.JPEG").write_bytes(b"half")
    kept = (train / WNIDS[0]).stat().st_mtime_ns
    assert prepare("imagenet", archives, "--no-check") == 0
    assert (train / WNIDS[0]).stat().st_mtime_ns == kept
    assert (train / WNIDS[1] / f"{WNIDS[1]}_0.JPEG").read_bytes() == jpeg(10)
    assert not list(train.glob(".*"))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([2, 0, 1, 0, 1, 2], "label 0 is not a class"), ([1, 2, 3], "3 labels for 6 images")],
)
def test_a_label_file_that_is_off_is_refused(archives, capsys, numbers, message):
    devkit(archives / "ILSVRC2012_devkit_t12.tar.gz", numbers)
    assert prepare("imagenet", archives, "--no-check") == 2
    assert message in capsys.readouterr().err
    assert not (archives.parent / "out" / "val").exists()


METAS = {
    "empty": b"",
    "junk": b"junk" * 100,
    "no synsets": mat(x=1),
    "a number": mat(synsets=3.0),
    "other fields": mat(synsets=np.array([(1, "a")] * 2, dtype=[("a", "O"), ("b", "O")])),
    "texts": mat(synsets=np.array([("x", WNIDS[0], "a fish", 0)] * 2, dtype=KINDS)),
    "matrices": mat(synsets=np.array([(np.eye(3), WNIDS[0], "a fish", 0)] * 2, dtype=KINDS)),
    "no leaves": mat(synsets=np.array([(1, WNIDS[0], "a fish", 2)] * 2, dtype=KINDS)),
}


@pytest.mark.parametrize("what", METAS)
def test_a_list_of_classes_of_another_kind_is_refused(archives, capsys, what):
    devkit(archives / "ILSVRC2012_devkit_t12.tar.gz", [3, 1, 2, 1, 2, 3], METAS[what])
    assert prepare("imagenet", archives, "--no-check") == 2
    assert "ILSVRC2012_devkit_t12.tar.gz is damaged" in capsys.readouterr().err


def inner_archive(*names, kind=tarfile.REGTYPE, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            content = jpeg(number)
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


CLASS = f"{WNIDS[0]}.tar"
TRAINS = {
    "no class": ("x.txt", b"x", "holds no archive of a class"),
    "no image": (CLASS, inner_archive(), "holds no image"),
    "links": (CLASS, inner_archive("a.JPEG", kind=tarfile.SYMTYPE), "holds no image"),
    "compressed": (CLASS, inner_archive("a.JPEG", mode="w:gz"), "is damaged"),
    "two files": (CLASS, inner_archive("a.JPEG", "b/a.JPEG"), "two files called a.JPEG"),
    "control": (CLASS, inner_archive("a\x1b[2J.JPEG"), "it has a file called"),
    "elsewhere": (f"/tmp/x{CLASS}", inner_archive("a.JPEG"), "classes are called like"),
}


@pytest.mark.parametrize("what", TRAINS)
def test_crafted_training_archives_are_refused(archives, capsys, what):
    name, content, words = TRAINS[what]
    with tarfile.open(archives / "ILSVRC2012_img_train.tar", "w") as outer:
        add(outer, name, content)
    assert prepare("imagenet", archives, "--no-check") == 2
    assert words in capsys.readouterr().err
    train = archives.parent / "out" / "train"
    assert not [path for path in train.glob("*") if not path.name.startswith(".")]


def test_bad_archives_are_named(archives, capsys):
    assert prepare("imagenet", archives) == 2
    assert "ILSVRC2012_img_train.tar has md5" in capsys.readouterr().err
    assert prepare("tinyimagenet", archives) == 2
    assert "there is no" in capsys.readouterr().err
    whole = (archives / "ILSVRC2012_img_train.tar").read_bytes()
    (archives / "ILSVRC2012_img_train.tar").write_bytes(b"\0\1" * 600 + whole[:3000])
    assert prepare("imagenet", archives, "--no-check") == 2
    assert "is damaged" in capsys.readouterr().err


def test_tiny_imagenet_is_unpacked(archives):
    root = tiny_tree(archives / "tiny-imagenet-200")
    (root / "words.txt").write_text("words")
    with zipfile.ZipFile(archives / "tiny-imagenet-200.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(archives))
    for _ in range(2):
        assert prepare("tinyimagenet", archives, "--no-check") == 0
    out = archives.parent / "out"
    assert labels("tinyimagenet", out)[1] == [0, 1, 2, 0, 1, 2]
    assert (out / "words.txt").read_text() == "words"


@pytest.mark.parametrize("name", ["/tmp/outside", "../outside", "a/../../outside", "", "n0144076"])
def test_a_list_of_labels_writes_nothing_outside(archives, capsys, name):
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    rows = [f"ILSVRC2012_val_{i + 1:08},{name or '..'} 1 2 3 4 \n" for i in range(6)]
    (archives / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    before = set(archives.parent.iterdir())
    assert prepare("imagenet", archives, "--no-check") == 2
    assert "classes are called like n01440764" in capsys.readouterr().err
    assert set(archives.parent.iterdir()) - before <= {archives.parent / "out"}
    assert not (archives.parent / "out" / "val").exists()


@pytest.mark.parametrize("which", ["train", "val"])
@pytest.mark.parametrize("tenth", range(1, 20))
def test_an_archive_cut_anywhere_is_not_taken_as_complete(archives, capsys, which, tenth):
    path = archives / f"ILSVRC2012_img_{which}.tar"
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes(path.read_bytes()[: end * tenth // 19])
    assert prepare("imagenet", archives, "--no-check") == 2
    error = capsys.readouterr().err
    assert "download it again" in error or "is damaged" in error


def test_a_sparse_file_is_refused(archives, capsys):
    info = tarfile.TarInfo(f"{WNIDS[0]}_0.JPEG")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(10**13),
    }
    info.size, inner = 512, io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(512)))
    with tarfile.open(archives / "ILSVRC2012_img_train.tar", "w") as outer:
        add(outer, f"{WNIDS[0]}.tar", inner.getvalue())
    assert prepare("imagenet", archives, "--no-check") == 2
    assert "is a sparse file" in capsys.readouterr().err


def test_a_zip_bomb_is_refused_before_it_is_unpacked(archives, capsys):
    with zipfile.ZipFile(archives / "tiny-imagenet-200.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny-imagenet-200/train/a/images/a.JPEG", bytes(10**7))
    assert prepare("tinyimagenet", archives, "--no-check") == 2
    assert "would grow from" in capsys.readouterr().err
    assert not (archives.parent / "out" / "train").exists()
