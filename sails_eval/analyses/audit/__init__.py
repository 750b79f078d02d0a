"""A run's rates corrected by people: a blinded sample to label, and what their labels say."""
