"""Puts the forms of a plan into a model."""
