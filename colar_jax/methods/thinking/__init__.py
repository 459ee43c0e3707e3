"""What methods that think in training share: schedules, rows with room for thoughts, and the chain itself."""
