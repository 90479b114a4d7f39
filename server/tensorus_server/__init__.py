"""The engine of Tensorus and its gRPC service.

The layers, from the top: `processes` (port, workers, signals), `rpc` (the gRPC service), `engine` (the rules for inserts, reads
and queries), and below it `catalogue` (everything about tensors except their bytes) and `chunk_store` (bytes by key). `app`
assembles them. No layer below `rpc` knows gRPC, so the same engine also runs inside a user's process.
"""
