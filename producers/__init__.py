"""Where events come in: the HTTP gateway, the file importer, the load generator. Keeps no state."""
