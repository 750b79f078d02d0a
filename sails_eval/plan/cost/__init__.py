"""What a comparison takes before anything is trained: memory, FLOPs, tokens, disk."""
