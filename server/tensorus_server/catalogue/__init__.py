"""What exists, and everything about it but its bytes; transactional."""
