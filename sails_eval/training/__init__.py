"""Training one cell: batches, trainers, regularisation."""
