"""What initialisations share: contrast texts, activations, SAEs, bases."""
