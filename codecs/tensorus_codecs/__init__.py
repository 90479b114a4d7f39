"""Codecs of Tensorus: pure functions of arrays and bytes, without I/O, network or threads.

A chunk passes `quantizer? -> filter? -> compressor?` and becomes a chunk record; decoding goes back the same way. Start with
`abc` (the three kinds and the life of a chunk), `pipeline` (one chunk in, one record out) and `chunk_record` (the bytes).
Nothing here imports the rest of Tensorus.
"""
