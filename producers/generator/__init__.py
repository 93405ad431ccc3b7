"""The load generator: seeded, reproducible event streams, their pace, and where they are sent."""
