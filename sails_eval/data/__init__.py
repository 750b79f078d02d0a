"""Training and contrast data: files, data sets on the hub and mixtures, read into requests and their answers."""
