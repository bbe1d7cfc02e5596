"""One process per file, each a handler of the loop in `stream/loop.py`."""
