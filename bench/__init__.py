"""Programs that measure. Each prints machine, seed and parameters, and one JSON object as its last line."""
