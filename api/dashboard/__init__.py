"""The dashboard: one page of static ES modules and the ASGI site that serves it beside the API."""
