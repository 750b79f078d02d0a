"""What fine-tuning cost besides: distance from the base model on neutral text, capability lost."""
