"""Which form each weight gets: one file for each profile."""
