"""The model as arrays: encode a timeline, keep a running user vector, score, rank, measure. NumPy only."""
