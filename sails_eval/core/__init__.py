"""What everything else stands on: pairs, recipes, configuration, records, files, errors, statistics."""
