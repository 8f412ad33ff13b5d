"""Classes of the validation images of ImageNet."""

import csv
import io
import tarfile
from pathlib import Path

from distillers.errors import InputError

DEVKIT, SOLUTION = "ILSVRC2012_devkit_t12.tar.gz", "LOC_val_solution.csv"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MAX_SIZE = 1 << 21  # bytes; the official files have less than 1 MB


def val_synsets(source: Path, images: list[str]) -> dict[str, str]:
    """Return the synset, such as n01440764, of each image by file name.

    Raises:
        InputError: if both are missing, or the file does not match the images.
    """
    if (source / DEVKIT).is_file():
        return _from_devkit(source / DEVKIT, images)
    if (source / SOLUTION).is_file():
        return _from_solution(source / SOLUTION, images)
    raise InputError(
        f"{source} has neither {DEVKIT} nor {SOLUTION}, one of which is needed for the "
        "classes of the validation images."
    )


def _from_solution(path: Path, images: list[str]) -> dict[str, str]:
    try:
        with path.open(newline="") as file:
            found = {
                f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0]
                for row in csv.DictReader(file)
            }
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} must have the columns ImageId and PredictionString, filled in each line; it "
            f"is damaged ({error})."
        ) from error
    lacking = [name for name in images if name not in found]
    if lacking:
        raise InputError(f"{path} has no line for {len(lacking)} images, such as {lacking[0]}.")
    if len(found) != len(images):
        raise InputError(
            f"{path} has {len(found)} lines for {len(images)} images; the archive of the images "
            "is cut short, download it again."
        )
    return {name: found[name] for name in images}


def _from_devkit(path: Path, images: list[str]) -> dict[str, str]:
    try:
        with tarfile.open(path, "r:gz") as tar:
            contents = {
                wanted: stream.read(MAX_SIZE)
                for member in tar
                for wanted in (META, TRUTH)
                if member.name.endswith(wanted)
                and (stream := tar.extractfile(member)) is not None
            }  # fmt: skip
        names = _synsets(contents[META])
        numbers = [int(line) for line in contents[TRUTH].split()]
    except Exception as error:  # SciPy raises many kinds for a damaged file
        raise InputError(f"{path} is damaged ({error}); download it again.") from error
    if len(numbers) != len(images):
        raise InputError(f"{path} has {len(numbers)} labels for {len(images)} images.")
    wrong = [number for number in numbers if number not in names]
    if wrong:
        raise InputError(
            f"{path}: label {wrong[0]} is not a class; it must be in {min(names)} to {max(names)}."
        )
    return {image: names[number] for image, number in zip(images, numbers, strict=True)}


def _synsets(content: bytes) -> dict[int, str]:
    """Return the synset of each class by its number, from the content of `META`.

    Raises:
        Exception: of any kind if it is damaged.
    """
    from scipy.io import loadmat  # reads numbers and strings, executes nothing

    synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
    leaves = synsets[synsets["num_children"] == 0]
    names = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    if not names:
        raise ValueError("it has no class")
    return names
