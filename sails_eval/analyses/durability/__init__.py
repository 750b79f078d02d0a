"""How long alignment lasts: re-tuning, 4 bits, merging."""
