"""Faust workers: events in, frames of changed rollup rows out. State is rebuilt from the frames' own log."""
