"""The files that say what a run came to: results, ledger, leaderboard, curves."""
