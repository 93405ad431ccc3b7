"""One question in, one answer with its completeness out: request model, planner, two sources, the answer's shape."""
