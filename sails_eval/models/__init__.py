"""Models: the base model, its chat template, adapters, the hub, and the engines that have them answer."""
