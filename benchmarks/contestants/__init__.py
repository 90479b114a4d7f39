"""The contestants: Tensorus and its peers. Only a contestant's own process loads its module."""
