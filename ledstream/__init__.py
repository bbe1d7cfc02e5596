"""The command line, the settings, and the wiring of the other packages into processes."""
