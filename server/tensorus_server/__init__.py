"""The engine of Tensorus and the gRPC service on it.

From the top: `service` (protobuf in, protobuf out), `engine` with `insert`, `read` and `query` (the rules), `catalogue` (what
exists, and everything about it but its bytes) and `chunk_store` (bytes by key). `app` puts them together. Nothing below
`service` knows gRPC, so the same engine runs inside a user's process.
"""
