"""The groups of `run.py`: each has a function `measure` that returns rows of a table."""
