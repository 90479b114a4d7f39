"""The rules of the store: inserts, reads, queries and what runs in the background. No gRPC, no SQL, no file names."""
