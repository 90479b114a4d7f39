"""Filters, one file per family."""
