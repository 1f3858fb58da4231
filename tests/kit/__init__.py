"""What tests use instead of a real clock, loop or socket."""
