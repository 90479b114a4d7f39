"""Speaks to a server over gRPC. Nothing else in the client knows gRPC or protobuf.

`steps.py` explains how a call is written once, without I/O, and driven by two backends: `remote.py` with blocking calls and
`aio_remote.py` on an event loop.
"""
