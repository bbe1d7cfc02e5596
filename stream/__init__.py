"""Events, the log they travel on, and the one loop that consumes it."""
