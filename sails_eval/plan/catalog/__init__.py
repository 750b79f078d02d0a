"""What there is: pairs, methods and tasks, listed, shown and checked."""
