"""The catalogue: everything about datasets and tensors except the tensors' bytes; transactional."""
