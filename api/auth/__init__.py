"""Who is asking: tokens, browser sessions, and the principal that every data access is bound to."""
