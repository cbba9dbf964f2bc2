"""Predictions of a trained model for raw examples, as the data source gives them. It needs no run, only two files."""

from tasks.predict.predictor import Prediction, Predictor, said_of
from tasks.predict.recipe import MODEL, Recipe, read_recipe, recipe_of, write_recipe

__all__ = ["MODEL", "Prediction", "Predictor", "Recipe", "read_recipe", "recipe_of", "said_of", "write_recipe"]
