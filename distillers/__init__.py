"""Knowledge distillation of image classifiers: exact losses, any teacher, any student."""

__version__ = "0.1.0"
