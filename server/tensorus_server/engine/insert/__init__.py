"""One insert: segments become chunks, chunks a payload, and a commit makes the tensor visible."""
