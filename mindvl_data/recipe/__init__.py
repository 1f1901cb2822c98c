"""The recipe: YAML into frozen models. Every key is checked; an error names its YAML path.

`fields` is what all sections share; `whole` puts the sections (the other files) together; `loading` reads a
recipe, and `problems` puts what is wrong with it into words.
"""

from mindvl_data.recipe.fields import RecipeError
from mindvl_data.recipe.filters import Filter, Holdout
from mindvl_data.recipe.forecast import DeviceSize, Forecast, ModelSize, Size, Tower
from mindvl_data.recipe.loading import LoadedRecipe, json_schema, load_recipe, read_yaml, reference
from mindvl_data.recipe.mixture import Budget, Group, Passes
from mindvl_data.recipe.sources import Boxes, Limits, PixelBounds, Resolution, Source
from mindvl_data.recipe.stages import Curriculum, Order, Stage
from mindvl_data.recipe.whole import Recipe

__all__ = [
    "Boxes",
    "Budget",
    "Curriculum",
    "DeviceSize",
    "Filter",
    "Forecast",
    "Group",
    "Holdout",
    "Limits",
    "LoadedRecipe",
    "ModelSize",
    "Order",
    "Passes",
    "PixelBounds",
    "Recipe",
    "RecipeError",
    "Resolution",
    "Size",
    "Source",
    "Stage",
    "Tower",
    "json_schema",
    "load_recipe",
    "read_yaml",
    "reference",
]
