"""From raw recordings, read or simulated, to `datasets` on disk in physical units. Run as `python -m processing.<name>`."""
