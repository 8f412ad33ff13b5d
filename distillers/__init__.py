"""Knowledge distillation of image classifiers: exact losses, any teacher, any student."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillers.distillation import Distillation as Distillation
    from distillers.distillation import distil as distil
    from distillers.evaluate import score as score
    from distillers.hub import from_pretrained as from_pretrained
    from distillers.hub import push_to_hub as push_to_hub
    from distillers.plan import Plan as Plan
    from distillers.ready import load as load
    from distillers.taps import Taps as Taps
    from distillers.task import Step as Step
    from distillers.task import Supervised as Supervised
    from distillers.terms import Term as Term
    from distillers.train import fit as fit

__version__ = "0.1.0"

# What needs torch is imported when it is first asked for, so that `--help` answers at once.
_LAZY = {
    "Distillation": "distillers.distillation",
    "Plan": "distillers.plan",
    "Step": "distillers.task",
    "Supervised": "distillers.task",
    "Taps": "distillers.taps",
    "Term": "distillers.terms",
    "distil": "distillers.distillation",
    "fit": "distillers.train",
    "from_pretrained": "distillers.hub",
    "load": "distillers.ready",
    "push_to_hub": "distillers.hub",
    "score": "distillers.evaluate",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
