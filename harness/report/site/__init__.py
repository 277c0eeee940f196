"""The web leaderboard: one static folder made from the records, which opens from disk without a network."""
