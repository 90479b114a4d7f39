"""Filters: their tree, their text form, and the metadata index that answers them."""
