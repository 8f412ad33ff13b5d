"""Published weights and rates: what a flag that is left out stands for."""

from distillers.recipes.published import ELEVEN as ELEVEN
from distillers.recipes.published import IMAGENET as IMAGENET
from distillers.recipes.published import PROTOCOLS as PROTOCOLS
from distillers.recipes.published import Recipe as Recipe
from distillers.recipes.published import learning_rate as learning_rate
from distillers.recipes.published import recipe as recipe
