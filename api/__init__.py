"""The read side: queries, live streams, sessions, the page. Stateless: any replica serves any request."""
