"""HTTP: events in, recommendations out, releases switched. Each request takes one release and uses nothing else."""
