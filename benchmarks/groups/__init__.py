"""The groups of `run.py`: each has a function `measure` that returns a table with its picture."""
