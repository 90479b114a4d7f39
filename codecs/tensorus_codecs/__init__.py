"""Codecs of Tensorus: pure functions of arrays and bytes, without I/O, network or threads.

A chunk goes through `quantizer? -> filter? -> compressor?` and becomes a chunk record; decoding reverses the steps.
Start with `abc` (the three kinds of codec, and how a chunk is encoded), `pipeline` (chunk to record and back) and
`chunk_record` (the bytes).
Nothing here imports the rest of Tensorus.
"""
