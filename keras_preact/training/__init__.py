"""Recipes, and the run that follows one."""
