"""The flags that all training commands share; nothing here imports torch."""

import dataclasses
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from distillers.config.augmentation import AugmentationFlags
from distillers.config.data import (
    REST,
    Dali,
    DecodeOptions,
    LabelOptions,
    OnBad,
    SoftLabels,
    check_dali,
)
from distillers.config.flags import (
    AT_LEAST_1,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    UP_TO_1,
    Fact,
    Milestones,
    ModulePaths,
    NotInGrid,
    Pretrained,
    Range,
    as_json_types,
    at_least,
    check_ranges,
    default_flags,
    flags_with,
    require,
    result_flags,
)
from distillers.config.hyperparameters import DOT, StepFlags
from distillers.config.run_files import json_digest
from distillers.errors import InputError, install_command

SEED = Range("0 to 9223372036854775807", lambda value: 0 <= value < 2**63)
ONE_DEVICE = NotInGrid("each run of a sweep has one device")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StepFlags, AugmentationFlags):
    """Flags that teachers, students and transferred networks share."""

    COMMAND: ClassVar[str] = ""

    trial: Annotated[
        int, SEED, Fact.SAME_COST, Fact.OWN_COLUMN, NotInGrid("`trials` sets the seeds")
    ]
    protocol: Annotated[str, Fact.SAME_COST, Fact.OWN_COLUMN]
    weight_decay: Annotated[float | None, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING]

    dataset: Annotated[str, Fact.OWN_COLUMN] = "cifar100"
    """Data set: cifar100, imagenet, folder (your own images), ... (see `distillers list`)."""
    data_dir: Annotated[str, Fact.NO_EFFECT] = "./data"
    """Folder of the data sets; downloads go there too."""
    download: Annotated[bool, Fact.NO_EFFECT] = True
    """Download the data set if it is missing."""
    val_fraction: Annotated[float, FRACTION, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.0
    """Fraction of the training set held out for choosing the best epoch. If --dataset folder has
    no val/, these images take the place of its test set, in every run the same."""
    image_size: Annotated[int | None, at_least(8), Fact.PUBLISHED_SETTING] = None
    """Height and width of the images in pixels. Default: 64 for tinyimagenet, 224 for other
    folders of images, else the data set's own."""
    on_bad_image: OnBad = "error"
    """What to do with an image that cannot be read: stop, or count it and use another image."""
    batch_size: Annotated[int, AT_LEAST_1, Fact.PUBLISHED_SETTING] = 64
    """Images per step, summed over all devices."""
    num_workers: Annotated[int, NOT_NEGATIVE, Fact.NO_EFFECT] = 8
    """Processes that decode images; not used by data sets that are held in memory."""
    epochs: Annotated[int, AT_LEAST_1, Fact.SAME_COST] = 240
    """Number of passes over the training set."""
    patience: Annotated[int | None, AT_LEAST_1, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Stop if the figure of --select on the held-out images of --val_fraction has not been better
    for so many epochs. Default: train for all --epochs."""
    learning_rate: Annotated[
        float | None, POSITIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING, Fact.OWN_COLUMN
    ] = None
    """Initial learning rate. Default, as published: up to 64 pixels 0.01 for MobileNetV2 and
    ShuffleNets and 0.05 for others; for larger images 0.1."""
    lr_decay_epochs: Annotated[Milestones, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = (150, 180, 210)
    """Epochs after which the learning rate is multiplied by --lr_decay_rate."""
    smoothing: Annotated[float, FRACTION, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.0
    """Label smoothing: fraction of each label that is spread over all classes."""
    mixup: Annotated[float, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.0
    """Alpha of mixup, as in 0.2; 0 for none. A student's teacher gets the mixed images, too."""
    cutmix: Annotated[float, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.0
    """Alpha of CutMix, as in 1.0; 0 for none. With --mixup, each batch is mixed by one of both."""
    mixup_prob: Annotated[float, UP_TO_1, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 1.0
    """Probability that a batch is mixed by mixup or CutMix."""
    mixup_off_epoch: Annotated[int, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0
    """Last epoch in which batches are mixed; 0 for all epochs."""
    bce_loss: Annotated[bool, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = False
    """Binary cross-entropy for each class in place of the cross-entropy with the labels."""
    class_weight: Annotated[str | None, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Weights of the classes in the loss with the labels: balanced, for weights in inverse
    proportion to the numbers of training images, or a YAML or JSON file of weights by class name.
    Default: equal weights."""
    balanced_sampling: Annotated[bool, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = False
    """Draw images of every class equally often; those of small classes come several times in an
    epoch, which has as many images as before."""
    select: Annotated[
        Literal["test_acc", "balanced_acc", "loss"] | None, Fact.SAME_COST, Fact.PUBLISHED_SETTING
    ] = None
    """Figure that chooses the best epoch: accuracy, balanced accuracy, or the cross-entropy, on the
    held-out images if there are any, else on the test images. Default: the accuracy on held-out
    images; without any, what --protocol reports."""
    channels_last: bool = True
    """Use the channels-last memory format, which is faster."""
    gpu_id: Annotated[
        str | None,
        Fact.NO_EFFECT,
        NotInGrid("the sweep distributes its runs over the devices of its own --gpu_id"),
    ] = None
    """GPU index, a list such as 0,1,2,3 with one process each, or "cpu". Default: the first GPU if
    there is one."""
    drop_path: Annotated[float | None, FRACTION, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Rate of stochastic depth, in networks of timm and torchvision. Default: the network's."""
    grad_checkpointing: Annotated[bool, Fact.PUBLISHED_SETTING] = False
    """Recompute the activations of a timm network in the backward pass, which saves memory."""
    deterministic: Annotated[bool, Fact.SAME_COST] = False
    """Use only deterministic kernels on GPUs too."""
    save_dir: Annotated[
        str, Fact.NO_EFFECT, Fact.PATH, NotInGrid("set `save_dir` of the whole grid")
    ] = "./save"
    """Folder in which run folders are created."""
    resume: Annotated[
        bool, Fact.NO_EFFECT, NotInGrid("every run of a sweep resumes where it stopped")
    ] = False
    """Resume the run with exactly these flags from its last checkpoint."""
    overwrite: Annotated[
        bool, Fact.NO_EFFECT, NotInGrid("delete the folders of the runs to be started again")
    ] = False
    """Delete an earlier run with exactly these flags and start again."""
    save_minutes: Annotated[float, NOT_NEGATIVE, Fact.NO_EFFECT] = 15.0
    """Minutes between checkpoints within an epoch; 0 saves only at the end of each epoch."""
    tb_freq: Annotated[int, Fact.NO_EFFECT] = 500
    """Ignored; accepted for older scripts. Scalars are logged every epoch."""
    wandb: Annotated[str | None, Fact.NO_EFFECT] = None
    """Weights & Biases project to log to; with WANDB_MODE=offline the logs stay in the run
    folder."""
    save_freq: Annotated[int, NOT_NEGATIVE, Fact.NO_EFFECT] = 40
    """Epochs between checkpoints that are kept, ckpt_epoch_N.pth; 0 keeps only the last and the
    best."""
    dali: Dali = None
    """Decode training images from folders with NVIDIA DALI, on the CPU or on the training GPU."""
    multiprocessing_distributed: Annotated[bool, Fact.NO_EFFECT, ONE_DEVICE] = False
    """Train on all GPUs of --gpu_id, with one process each."""
    dist_url: Annotated[str, Fact.NO_EFFECT, ONE_DEVICE] = "tcp://127.0.0.1:23451"
    """Address at which these processes rendezvous."""
    dist_timeout: Annotated[float, POSITIVE, Fact.NO_EFFECT] = 600.0
    """Seconds to wait for the other processes before giving up."""
    sync_bn: Annotated[bool, Fact.PUBLISHED_SETTING] = False
    """Synchronize batch normalization across processes; requires GPUs."""
    config: Annotated[str | None, Fact.NO_EFFECT, NotInGrid("give its flags in the grid")] = None
    """YAML or JSON file of flags; flags on the command line override it."""
    trust: Annotated[
        ModulePaths, Fact.NO_EFFECT, NotInGrid("give --trust on the sweep's command line")
    ] = ()
    """Modules of your own that --config may name for --model and --loss, as in my_package.losses.
    What the command line itself names is trusted."""
    recipe: Annotated[str | None, Fact.NO_EFFECT] = None
    """Training recipe, which sets flags that are not given: published, finetune, distil, patient,
    a1, a2, a3 or deit (see docs/recipes.md). Default: for --dataset folder, finetune with
    --pretrained or a transfer's --mode finetune, else distil for students; published in all other
    cases."""

    def __post_init__(self) -> None:
        """Expand ~ in paths."""
        for name in flags_with(type(self), Fact.PATH):
            path = getattr(self, name)
            if isinstance(path, str) and (path == "~" or path.startswith("~/")):
                object.__setattr__(self, name, str(Path(path).expanduser()))

    def check(self) -> None:
        """Check the flags, alone and together.

        Raises:
            InputError: naming the flag, its value, and what is allowed.
        """
        check_ranges(self)
        steps = self.lr_decay_epochs
        increasing = list(steps) == sorted(set(steps)) and min(steps, default=1) >= 1
        require("lr_decay_epochs", steps, increasing, "increasing epochs, from 1")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite exclude each other; choose one.")
        path = str(Path(self.save_dir).resolve())
        is_utf8 = path.encode(errors="ignore").decode() == path
        require("save_dir", repr(path), is_utf8, "a path in UTF-8")
        check_dali(self.dali)
        if self.wandb is not None and find_spec("wandb") is None:
            raise InputError(f"--wandb needs the package wandb: {install_command('wandb')}.")
        self.check_step(self.epochs)
        self.check_augmentation()
        for name in () if self.mixup or self.cutmix else ("mixup_prob", "mixup_off_epoch"):
            if getattr(self, name) != getattr(SoftLabels, name):
                raise InputError(f"--{name} needs --mixup or --cutmix.")
        if self.patience is not None and not self.val_fraction:
            raise InputError("--patience needs held-out images; add --val_fraction, as in 0.1.")

    @property
    def network(self) -> str:
        """Name of the network that is trained; "" if its checkpoint has it."""
        return ""

    def default_recipe(self) -> str | None:
        """Return the recipe without --recipe; None for the defaults of all flags."""
        return None

    def devices(self) -> tuple[str, ...]:
        """Return the devices of --gpu_id, one for each process; empty if it is not given."""
        return tuple(part.strip() for part in (self.gpu_id or "").split(",") if part.strip())

    @property
    def as_published_by_simkd(self) -> bool:
        """Whether the best test epoch is reported and each epoch's smaller last batch dropped."""
        return self.protocol in ("simkd", "public")

    def decode_options(self) -> DecodeOptions:
        """Return how image files are decoded."""
        names = {field.name for field in dataclasses.fields(DecodeOptions)} - {"class_names"}
        return DecodeOptions(**{name: getattr(self, name) for name in names})

    def label_options(self) -> LabelOptions:
        """Return which training images have labels: all, unless a command has flags for it."""
        return LabelOptions()

    def soft_labels(self) -> SoftLabels:
        """Return the options of soft labels."""
        names = [field.name for field in dataclasses.fields(SoftLabels)]
        return SoftLabels(**{name: getattr(self, name) for name in names})

    @property
    def label_loss(self) -> str:
        """Name of the loss with the labels: "ce", or "softce" or "bce", which read `targets`."""
        if self.bce_loss:
            return "bce"
        options = self.soft_labels()
        return "softce" if options.smoothing or options.mixes else "ce"

    def as_json_types(self) -> dict[str, Any]:
        """Return every flag as JSON types."""
        return as_json_types(dataclasses.asdict(self))

    def digest(self) -> str:
        """Return eight hexadecimal digits that identify the flags that can change results.

        Only values that differ from the default are hashed: a flag that is added later leaves the
        folders of earlier runs valid. The default of a flag must therefore never change.
        """
        defaults = result_flags(type(self), default_flags(type(self)))
        flags = result_flags(type(self), self.as_json_types())
        if "data_dir" in flags:
            flags["data_dir"] = str(Path(self.data_dir).expanduser().resolve())
        if flags.get("unlabelled") not in (None, REST):
            flags["unlabelled"] = str(Path(flags["unlabelled"]).resolve())
        changed = {n: v for n, v in flags.items() if n not in defaults or v != defaults[n]}
        return json_digest(changed)[:8]


@dataclass(frozen=True, kw_only=True)
class InitialNetworkConfig(TrainConfig):
    """Flags of the network that teachers and students start from, and of its labels."""

    pretrained: Pretrained = None
    """Initial weights: a file, or without a value those published by timm or torchvision. A
    classifier for another number of classes is replaced. Default: random weights."""
    labels_per_class: Annotated[int | None, NOT_NEGATIVE, Fact.PUBLISHED_SETTING] = None
    """Train on the labels of only so many images of each class, drawn by --trial; the other
    training images are left out, or stay without labels with --unlabelled rest."""

    def default_recipe(self) -> str | None:
        """Return the recipe without --recipe; see `TrainConfig.default_recipe`."""
        return "finetune" if self.dataset == "folder" and self.pretrained else None

    def label_options(self) -> LabelOptions:
        """Return which training images have labels."""
        return LabelOptions(self.labels_per_class, self.trial)


def refuse_dot(config: TrainConfig) -> None:
    """Raise an `InputError` if a training without a teacher asks for the optimizer DOT."""
    if config.opt == DOT:
        raise InputError("--opt dot keeps teacher and labels apart; it is for train_student.py.")
