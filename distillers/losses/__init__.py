"""Every loss, one line each; its name on the command line is the lower-cased class name."""

from distillers.losses.ce import CE as CE
from distillers.losses.kd import KD as KD
