"""How many seeds and prompts it takes to see a difference between two methods."""
