"""The HTTP routes, one module a subject. They translate; what they translate to is elsewhere."""
