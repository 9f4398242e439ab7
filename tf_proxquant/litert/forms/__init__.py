"""How one tensor is stored exactly."""
