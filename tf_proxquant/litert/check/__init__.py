"""Whether a file is the same network."""
