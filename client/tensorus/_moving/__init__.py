"""Copies datasets from one store to another one, through the interface that servers and embedded engines share.

`copying.py` runs a copy, `compare.py` says what is to be done, `incoming.py` reads tensors from the source, `exact.py` says how
they are stored so that no value changes, `report.py` has the result. It knows neither gRPC nor the engine.
"""
