"""How many organisms, seeds and prompts it takes to see a difference between two methods."""
