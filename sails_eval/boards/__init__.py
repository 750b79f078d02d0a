"""From results to leaderboards: scoring, choice of rates, contrasts, tables, curves, publishing."""
