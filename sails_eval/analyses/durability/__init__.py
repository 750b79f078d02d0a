"""How long alignment lasts: further fine-tuning, 4-bit quantisation, merging."""
