"""From frames and events to the stores. Keeps no state: cursors live in the store they describe."""
