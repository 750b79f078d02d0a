"""What can be asked of a finished run: forgetting, durability, audit, sensitivity, rejudge, power."""
