"""The flags of train_student.py; nothing here imports torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import UseAppendAction, arg

from distillers.config.augmentation import Augmentation, parse_policy
from distillers.config.data import NO_DATASET, REST, LabelOptions, NumViews
from distillers.config.flags import (
    AT_LEAST_1,
    INSIDE,
    NOT_NEGATIVE,
    PUBLISHED,
    Fact,
    LossOption,
    ModulePaths,
    NotInGrid,
    Protocol,
    require,
)
from distillers.config.sizes import num_bytes
from distillers.config.teachers import TeachersConfig, is_pack
from distillers.errors import InputError
from distillers.files import file_name

# Method names of the published code that differ from the names in this library.
PUBLISHED_NAMES = {
    "hint": "fitnet",
    "attention": "at",
    "similarity": "sp",
    "correlation": "cc",
    "abound": "ab",
    "factor": "ft",
}


def canonical_method(method: str) -> str:
    """Return a method's name in lower case; package.module:Class is left unchanged."""
    method = method.strip()
    return method if ":" in method else method.lower()


@dataclass(frozen=True, kw_only=True)
class StudentConfig(TeachersConfig):
    """Distill a student from a trained teacher."""

    COMMAND: ClassVar[str] = "student"

    model_s: Annotated[str, Fact.OWN_COLUMN, NotInGrid("`pairs` names it")] = "resnet8x4"
    """Architecture of the student (see `distillers list`)."""
    distill: Annotated[str | None, Fact.OWN_COLUMN, NotInGrid("`methods` names it")] = None
    """Method, or several joined by "+", as in crd+kd. Default: kd, or only --loss if given."""
    loss: Annotated[str | None, Fact.OWN_COLUMN, NotInGrid("`methods` names it")] = None
    """Your own loss, package.module:Class, in addition to --distill or alone."""
    option: Annotated[tuple[tuple[str, ...], ...], UseAppendAction, Fact.OWN_COLUMN] = ()
    """Options of losses, as in crd.negatives=4096 rrd.dim=64; can be repeated."""
    protocol: Protocol = "simkd"
    """Published loss weights and evaluation protocol: simkd reports the best test epoch and leaves
    out the last batch of an epoch if it is smaller, crd reports the last epoch."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD, or weight decay of --opt."""
    trial: Annotated[int, arg(aliases=["-t"])] = 1
    """Random seed; part of the run folder's name."""
    cls: Annotated[
        float | None, arg(aliases=["-c", "-r", "--gamma"]), NOT_NEGATIVE, Fact.OWN_COLUMN
    ] = None
    """Weight of the cross-entropy. Default: the protocol's."""
    div: Annotated[
        float | None, arg(aliases=["-d", "-a", "--alpha"]), NOT_NEGATIVE, Fact.OWN_COLUMN
    ] = None
    """Weight of the KL divergence to the teacher's logits. Default: the protocol's."""
    beta: Annotated[float | None, arg(aliases=["-b"]), NOT_NEGATIVE, Fact.OWN_COLUMN] = None
    """Weight of the method's loss, of each in a sum. Default: the protocol's."""
    kd_T: Annotated[float | None, LossOption(("kd.temperature",))] = None  # noqa: N815, published
    """Temperature of KD. Default: 4, unless the method's source has another."""
    hint_layer: Annotated[int | None, LossOption(("fitnet.hint_layer",))] = None
    """Stage that FitNet compares, counted from 1. Default: the protocol's, 1 for simkd and 2 for
    crd."""
    factor: Annotated[int | None, arg(aliases=["-f"]), LossOption(("simkd.factor",))] = None
    """Reduction factor of the hidden width of SimKD's projector. Default: 2."""
    soft: Annotated[float | None, arg(aliases=["-s"]), LossOption(("semckd.softness",))] = None
    """Softness of SemCKD's attention. Default: 1."""
    feat_dim: Annotated[
        int | None, LossOption(("crd.dim", "rrd.dim", "dcd.dim", "cc.dim", "rrdmomentum.dim"))
    ] = None
    """Embedding width of CRD, RRD, DCD and CC. Default: 128."""
    mode: Annotated[Literal["exact", "relax"] | None, LossOption(("crd.mode",))] = None
    """Positive of CRD: the image itself (exact), or any image of its class (relax). Default:
    exact."""
    nce_k: Annotated[int | None, LossOption(("crd.negatives", "rrd.queue_size"))] = None
    """Number of negatives of CRD, or queue size of RRD. Default: 16384."""
    nce_t: Annotated[float | None, LossOption(("crd.temperature",))] = None
    """Temperature of CRD. Default: 0.07."""
    nce_t_s: Annotated[
        float | None,
        LossOption(("rrd.student_temperature", "rrdmomentum.student_temperature")),
    ] = None
    """Temperature of the student in RRD. Default: 0.1."""
    nce_t_t: Annotated[
        float | None,
        LossOption(("rrd.teacher_temperature", "rrdmomentum.teacher_temperature")),
    ] = None
    """Temperature of the teacher in RRD. Default: 0.02."""
    nce_m: Annotated[float | None, LossOption(("rrdmomentum.momentum", "crd.momentum"))] = None
    """Momentum of CRD's memory banks. Default: 0.5."""
    memory_type: Annotated[Literal["fifo", "momentum"] | None, Fact.OWN_COLUMN] = None
    """Memory of RRD: a first-in first-out queue, or a bank with momentum. Default: fifo."""
    init_epochs: Annotated[
        int | None, LossOption(("ab.warmup_epochs", "ft.warmup_epochs", "fsp.warmup_epochs"))
    ] = None
    """Epochs of the first stage of AB, FT and FSP. Default: 30."""
    gather: Annotated[bool, Fact.NEEDS_TEACHER] = True
    """Losses that compare the images of a batch compare those of all processes together."""
    taps_s: Annotated[ModulePaths, Fact.OWN_COLUMN] = ()
    """Modules of the student whose outputs are its stage features. Default: found by rules."""
    qat: Annotated[bool, Fact.PUBLISHED_SETTING] = False
    """Train with int8 weights and activations simulated, starting from a trained student
    (--pretrained FILE); then `distillers export RUN --format onnx --int8 static`."""
    unlabelled: Annotated[str | None, Fact.PATH, Fact.NEEDS_TEACHER, Fact.PUBLISHED_SETTING] = None
    """Folder of further training images without labels, at any depth; or rest, for those that
    --labels_per_class leaves out. Losses that need labels act on labelled images only."""
    unlabelled_share: Annotated[
        float | None, INSIDE, Fact.NEEDS_TEACHER, Fact.SAME_COST, Fact.PUBLISHED_SETTING
    ] = None
    """Share of unlabelled images in each batch; labelled images are then repeated or take turns.
    Default: each image once in each epoch."""
    probe: Annotated[
        Literal["knn", "linear"] | None, Fact.NEEDS_TEACHER, Fact.PUBLISHED_SETTING
    ] = None
    """Score the student's embeddings by the labelled training images: their 20 nearest neighbors
    or a linear classifier. Default: its own classifier, or knn if no loss trains that."""
    skip_validation: Annotated[bool, Fact.NO_EFFECT] = False
    """Do not evaluate the teacher before training."""
    teacher_cache: Annotated[str | None, Fact.NEEDS_TEACHER] = None
    """Run the teacher once for each augmented view and cache its outputs: auto (in SAVE_DIR), or a
    folder."""
    views: Annotated[NumViews | None, AT_LEAST_1, Fact.PUBLISHED_SETTING] = None
    """Number of augmented views of each training image, or all (every crop and flip). Default: a
    new random view in every epoch; all with --teacher_cache."""
    teacher_view: Annotated[Literal["same", "weak"], Fact.PUBLISHED_SETTING] = "same"
    """Images that the teacher gets: those of the student, or weak, the same crops without --aa,
    --color_jitter and --reprob."""
    strong_aa: Annotated[str, Fact.PUBLISHED_SETTING] = "fixmatch"
    """Augmentation of the second view of each image that some methods read (MLKD, CRLD), as in
    --aa. Default: that of their public code, RandAugment with random magnitudes and a square cut
    out."""
    cache_budget: Annotated[str, Fact.NO_EFFECT] = "20GB"
    """Maximum size of the cache on disk, as in 500MB; if it would be larger when full, the teacher
    runs in every step."""

    def __post_init__(self) -> None:
        """Expand paths, write methods in lower case, and drop an empty --option."""
        super().__post_init__()
        object.__setattr__(self, "option", tuple(filter(None, self.option)))
        if self.distill is not None:
            names = "+".join(map(canonical_method, self.distill.split("+")))
            object.__setattr__(self, "distill", names)

    @property
    def network(self) -> str:
        """Name of the student."""
        return self.model_s

    def default_recipe(self) -> str | None:
        """Return the recipe without --recipe; see `TrainConfig.default_recipe`."""
        return super().default_recipe() or ("distil" if self.dataset == "folder" else None)

    def augmentation(self) -> Augmentation:
        """Return how training images are augmented, with the second view."""
        is_weak = self.teacher_view == "weak"
        return replace(super().augmentation(), weak_teacher=is_weak, strong_aa=self.strong_aa)

    def methods(self) -> list[str]:
        """Return the library's names of the losses in --distill and --loss."""
        distill = self.distill or ("" if self.loss else "kd")
        names = distill.split("+") if distill else []
        names = [PUBLISHED_NAMES.get(name, name) for name in names]
        if self.memory_type == "momentum":
            names = ["rrdmomentum" if name == "rrd" else name for name in names]
        return [*names, *([self.loss] if self.loss else [])]

    def folder(self, ce: float, kd: float, method: float, teacher: str) -> Path:
        """Return the run folder, named after these weights and the teacher's architecture."""
        title = file_name("+".join(filter(None, (self.distill, self.loss))) or "kd")
        name = (
            f"S_{file_name(self.model_s)}_T_{file_name(teacher)}_{self.dataset}_{title}"
            f"_r_{ce:g}_a_{kd:g}_b_{method:g}_{self.trial}_{self.digest()}"
        )
        return Path(self.save_dir) / "students" / "models" / name

    def check(self) -> None:
        """Check the flags, alone and together; see `TrainConfig.check`."""
        super().check()
        self.check_teachers()
        self._check_unlabelled()
        self._check_qat()
        num_bytes(self.cache_budget, "cache_budget")
        parse_policy(self.strong_aa, "strong_aa")
        self._check_stored()
        for name in ("distill", "loss", "teacher_cache", "unlabelled"):
            require(name, '""', getattr(self, name) != "", "a name, or left out")

    @property
    def pack_t(self) -> str | None:
        """Folder of the pack that is the teacher; None if a network is."""
        return self.path_t if is_pack(self.path_t) else None

    @property
    def stored(self) -> str | None:
        """The flag whose folder holds what the teacher computed of fixed views, if there is one."""
        if self.pack_t is not None:
            return f"--path_t {self.pack_t}"
        return None if self.teacher_cache is None else "--teacher_cache"

    def _check_stored(self) -> None:
        """Check that stored outputs of the teacher are those of the images that are trained on."""
        if self.pack_t is not None and self.teacher_cache is not None:
            raise InputError(
                f"{self.stored} is a pack of what the teacher computed; leave --teacher_cache out."
            )
        if self.aug_repeats > 1 and (self.views is not None or self.stored is not None):
            raise InputError(
                f"--aug_repeats {self.aug_repeats} shows several augmentations of an image in an "
                f"epoch, but {self.stored or '--views'} shows one of its fixed views; leave one of "
                "them out."
            )
        if self.stored is not None and self.soft_labels().mixes:
            raise InputError(
                f"{self.stored} holds what the teacher computed for unmixed images, but with "
                "--mixup or --cutmix it sees other images in every epoch; leave one of them out."
            )

    def label_options(self) -> LabelOptions:
        """Return which training images have labels."""
        return LabelOptions(
            self.labels_per_class, self.trial, self.unlabelled, self.unlabelled_share
        )

    def _check_qat(self) -> None:
        """Check that --qat has a trained student and is not compiled."""
        if self.qat and self.pretrained in (None, PUBLISHED):
            raise InputError("--qat starts from a trained student; name it with --pretrained.")
        if self.qat and self.compile:
            raise InputError("--qat does not work with --compile; leave one out.")

    def _check_unlabelled(self) -> None:
        """Check the flags about labels together."""
        if self.dataset == NO_DATASET:
            if self.unlabelled in (None, REST) or self.labels_per_class is not None:
                raise InputError("--dataset none needs the folder of --unlabelled, and no labels.")
            if self.student_head != "none" or self.probe:
                raise InputError(
                    "--dataset none has no classes: add --student_head none, and no --probe."
                )
            if self.pack_t is not None:
                raise InputError(
                    f"--dataset none compares the student with its teacher on held-out images, "
                    f"which {self.stored} does not have; give the teacher itself."
                )
        if self.unlabelled == REST and self.labels_per_class is None:
            raise InputError(
                "--unlabelled rest are the images that --labels_per_class leaves out; add that, or "
                "name a folder (./rest if it is called so)."
            )
        if self.unlabelled_share is not None and self.unlabelled is None:
            raise InputError(
                "--unlabelled_share needs unlabelled images; add --unlabelled with their folder."
            )
        if self.labels_per_class == 0 and self.unlabelled is None:
            raise InputError(
                "--labels_per_class 0 leaves no training image; add --unlabelled rest, or a folder."
            )
