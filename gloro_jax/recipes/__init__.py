"""Named training recipes: a function per recipe, returning all that a run needs."""

from gloro_jax.recipes.digits import digits as digits
from gloro_jax.recipes.recipe import Recipe as Recipe

RECIPES = {"digits": digits}
