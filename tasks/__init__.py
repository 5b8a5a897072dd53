"""What can fail and be retried: one decorator round one call of the core."""
