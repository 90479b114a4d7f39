"""The rules of the store: inserts, reads, queries and background work. This layer knows no gRPC, no SQL and no file names."""
