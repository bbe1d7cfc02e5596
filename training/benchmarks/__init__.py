"""Published protocols and one's own archive, a file each; `registry.py` lists the protocols by name."""
