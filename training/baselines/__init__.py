"""Other people's models behind one contract (`contract.py`), a family a file, to compare ours with."""
