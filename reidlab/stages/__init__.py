"""The pipeline: one file a command, each of which reads a run, calls the library and records what it found."""
