"""Models of the protocols that make counts exact, searched at random for a counter-example."""
