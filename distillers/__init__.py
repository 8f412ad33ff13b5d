"""Knowledge distillation of image classifiers: exact losses, any teacher, any student."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillers.checkpoints.hub import from_pretrained as from_pretrained
    from distillers.checkpoints.hub import push_to_hub as push_to_hub
    from distillers.checkpoints.load import load as load
    from distillers.config.hyperparameters import Hyperparameters as Hyperparameters
    from distillers.distillation.build import distil as distil
    from distillers.distillation.distillation import Distillation as Distillation
    from distillers.distillation.ema_teacher import EMATeacher as EMATeacher
    from distillers.distillation.heads.prepare import prepare_teacher as prepare_teacher
    from distillers.distillation.joint import JointTask as JointTask
    from distillers.distillation.task import Step as Step
    from distillers.distillation.task import Supervised as Supervised
    from distillers.distillation.task import Task as Task
    from distillers.distillation.terms import Term as Term
    from distillers.features.taps import Taps as Taps
    from distillers.training.evaluate import score as score
    from distillers.training.trainer import fit as fit

__version__ = "0.1.0"

# What needs torch is imported when it is first asked for, so that `--help` answers at once.
_LAZY = {
    "Distillation": "distillers.distillation.distillation",
    "EMATeacher": "distillers.distillation.ema_teacher",
    "Hyperparameters": "distillers.config.hyperparameters",
    "JointTask": "distillers.distillation.joint",
    "Step": "distillers.distillation.task",
    "Supervised": "distillers.distillation.task",
    "Taps": "distillers.features.taps",
    "Task": "distillers.distillation.task",
    "Term": "distillers.distillation.terms",
    "distil": "distillers.distillation.build",
    "fit": "distillers.training.trainer",
    "from_pretrained": "distillers.checkpoints.hub",
    "load": "distillers.checkpoints.load",
    "prepare_teacher": "distillers.distillation.heads.prepare",
    "push_to_hub": "distillers.checkpoints.hub",
    "score": "distillers.training.evaluate",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
