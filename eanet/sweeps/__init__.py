"""Many runs of one config: planned, queued, worked at, reported."""
