"""State that outlives a process: user records in Redis, releases on disk, the item index."""
