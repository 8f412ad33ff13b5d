"""The flags of a student's teachers; nothing here imports torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from distillers.config.flags import POSITIVE, Fact, ModulePaths, NotInGrid, Numbers, Words, at_least
from distillers.config.train import InitialNetworkConfig
from distillers.errors import InputError

KEEP = "keep"
PACK_FILE = "pack.json"  # in the folder of a pack of soft labels
BY_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*:.+")  # timm:NAME, package.module:callable
REPEATED = ("--path_t", "--also_t", "--teacher_head", "--class_map")
# Flags that a teacher that is a pack does not have.
OF_NETWORKS = (
    *("teacher_head", "class_map", "model_t", "teacher_size", "teacher_precision"),
    *("standardize_teachers", "taps_t"),
)


class TeacherFlags(NamedTuple):
    """The flags of one teacher.

    Attributes:
        path: its file or run folder, or its name.
        model: its architecture, if the file does not name it.
        head: what maps its embeddings to the data set's classes; see `--teacher_head`.
        class_map: file that maps its classes to the data set's, or None.
    """

    path: str
    model: str | None
    head: str
    class_map: str | None

    @property
    def is_named(self) -> bool:
        """Whether it is a network by name with published weights, not a file."""
        return bool(BY_NAME.fullmatch(self.path)) and not Path(self.path).exists()

    @property
    def is_pack(self) -> bool:
        """Whether it is a pack of soft labels, which takes the place of a network."""
        return is_pack(self.path)

    @property
    def keeps_classes(self) -> bool:
        """Whether its own classes must be those of the data set."""
        return self.head == KEEP and self.class_map is None


@dataclass(frozen=True, kw_only=True)
class TeachersConfig(InitialNetworkConfig):
    """Flags of the teachers of a student."""

    path_t: Annotated[
        str | None, Fact.PATH, Fact.OWN_COLUMN, NotInGrid("`teachers` and `pairs` name it")
    ] = None
    """Teacher: a checkpoint or run folder, as in save/teachers/models/resnet32x4_vanilla; a network
    with published weights (timm:NAME, torchvision:NAME, transformers:NAME,
    package.module:callable), or with those of a file (NAME=FILE); or a pack of soft labels
    (`distillers cache export`). Repeat it for several teachers."""
    also_t: Annotated[Words, Fact.OWN_COLUMN] = ()
    """A further teacher; a repeated --path_t is the same."""
    model_t: Annotated[str | None, Fact.OWN_COLUMN] = None
    """Architecture of the teacher, if its checkpoint does not name it."""
    taps_t: Annotated[ModulePaths, Fact.OWN_COLUMN] = ()
    """Modules of the teacher whose outputs are its stage features. Default: found by rules."""
    teacher_head: Words = ()
    """Classifier of a teacher that has other classes or none: fit (ridge regression on its
    embeddings of the labelled training images) or logistic; none (only losses that read no logits);
    a safetensors file of class embeddings. Default: keep, its own. Repeat it for several teachers,
    in their order; one value is for all."""
    class_map: Words = ()
    """File (YAML, JSON, CSV) that maps the teacher's classes to those of the data set, whose
    probabilities are summed. Repeat it for several teachers; none is a teacher without a map."""
    teacher_temperature: Annotated[float | None, POSITIVE] = None
    """Temperature of the cosines to class embeddings. Default: that of their file, else 0.01."""
    teacher_weights: Numbers = ()
    """Weights of several teachers. Default: equal ones."""
    combine_teachers: Literal["probabilities", "logits", "each"] = "probabilities"
    """What is averaged over several teachers for losses that read logits only; each: one term for
    each teacher."""
    standardize_teachers: bool = False
    """Standardize the embeddings of teachers with --teacher_head fit, logistic or none by PHI-S, a
    rotation and a scale after which every dimension has mean 0 and variance 1 on the training
    images."""
    drop_teachers: bool = False
    """For each image the teacher with the largest loss counts always, every other with probability
    1/2; for losses that can be computed per image (kd, embedmatch, mapmatch)."""
    teacher_size: Annotated[int | None, at_least(8)] = None
    """Height and width in pixels that images are resized to for the teachers. Default: the size
    that each was trained with, if it is known, else the student's."""
    teacher_precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the teachers' weights; bfloat16 takes half the memory."""
    student_head: Literal["classes", "none"] = "classes"
    """none: the student is a backbone without classifier, and is saved and exported as one."""

    def teachers(self) -> list[TeacherFlags]:
        """Return the flags of each teacher.

        Raises:
            InputError: if a flag that is repeated has not one value for each teacher.
        """
        paths = [*([self.path_t] if self.path_t else []), *self.also_t]
        count = len(paths)
        heads = _for_each("teacher_head", self.teacher_head, KEEP, count)
        maps = _for_each("class_map", self.class_map, "none", count)
        found = []
        for number, (path, head, class_map) in enumerate(zip(paths, heads, maps, strict=True)):
            if class_map != "none" and head != KEEP:
                raise InputError(
                    f"--class_map {class_map} is for the teacher's own classes; with "
                    f"--teacher_head {head} leave it out."
                )
            model = self.model_t if number == 0 else None
            own_map = None if class_map == "none" else class_map
            found.append(TeacherFlags(*split_name(path, model), head, own_map))
        return found

    def check_teachers(self) -> None:
        """Check the flags of the teachers together.

        Raises:
            InputError: naming the flag.
        """
        if not self.path_t:
            raise InputError("--path_t is missing: the checkpoint of the teacher, or its name.")
        count = len(self.teachers())
        self._check_pack()
        if self.teacher_weights and len(self.teacher_weights) != count:
            given = ",".join(f"{weight:g}" for weight in self.teacher_weights)
            raise InputError(f"--teacher_weights {given} must have one number for each of {count}.")
        if any(weight <= 0 for weight in self.teacher_weights):
            raise InputError("--teacher_weights must be greater than 0.")
        heads = {one.head for one in self.teachers()}
        if self.standardize_teachers and not heads <= {"fit", "logistic", "none"}:
            raise InputError(
                "--standardize_teachers is for teachers with --teacher_head fit, logistic or none."
            )
        if count > 1 and self.taps_t:
            raise InputError("--taps_t is for a single teacher; leave it out.")

    def _check_pack(self) -> None:
        """Check that nothing is asked of a pack that only a network can do."""
        paths = [one.path for one in self.teachers()]
        for path in paths:
            if Path(path).name == PACK_FILE:
                raise InputError(f"{path} is a file of a pack; name its folder.")
        pack = next(filter(is_pack, paths), None)
        if pack is None:
            return
        if len(paths) > 1:
            raise InputError(
                f"{pack} is a pack of soft labels, which can only be the only teacher."
            )
        for flag in OF_NETWORKS:
            if getattr(self, flag) != getattr(TeachersConfig, flag):
                raise InputError(
                    f"--{flag} is for a network, but {pack} is a pack of soft labels; leave it out."
                )


def split_name(path: str, model: str | None) -> tuple[str, str | None]:
    """Return the file and the architecture of NAME=FILE; others, with `model`, as they are."""
    name, equals, file = path.partition("=")
    is_pair = equals and BY_NAME.fullmatch(name) and not Path(path).exists()
    return (file, name) if is_pair else (path, model)


def is_pack(path: str | Path | None) -> bool:
    """Return whether there is a pack of soft labels in a folder."""
    return path is not None and (Path(path).expanduser() / PACK_FILE).is_file()


def collect_repeated(args: Sequence[str]) -> list[str]:
    """Return a command line in which flags of several teachers stand once, with all their values.

    Every --path_t but the first becomes --also_t.
    """
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    current = rest
    for word in args:
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            flag = flag.replace("-", "_").replace("__", "--", 1) if flag[:2] == "--" else flag
            if flag == "--path_t" and "--path_t" in values:
                flag = "--also_t"
            current = values.setdefault(flag, []) if flag in REPEATED else rest
            if flag in REPEATED:
                current += [value] if equals else []
                continue
        current.append(word)
    return [*rest, *(each for flag, given in values.items() for each in (flag, *given))]


def _for_each(flag: str, given: Sequence[str], default: str, count: int) -> list[str]:
    """Return one value for each teacher; one value is for all."""
    if len(given) <= 1:
        return [given[0] if given else default] * count
    if len(given) != count:
        raise InputError(f"--{flag} is given {len(given)} times; there are {count} teachers.")
    return list(given)
