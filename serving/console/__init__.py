"""The console: a page for people at `/console`, and what it asks beyond what programs ask."""
