"""The demo: real orders moved to the present, live traffic beside them, and the proof that all answers are right."""
