"""The read side: queries, live streams, sessions and the page. Stateless; any number of replicas serve any request."""
