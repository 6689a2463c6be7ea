"""Recipes: whole ways through the stages, and stages with their reports as one call."""
