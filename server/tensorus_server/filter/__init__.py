"""Filters: their tree, their text, and how metadata are indexed for them."""
