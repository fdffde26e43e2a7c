"""Studies: many runs, compared, with the noise told apart from the effect."""
