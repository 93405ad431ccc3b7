"""The embedded runtime: real engines and our own services as child processes of one supervisor.

One module an engine. Each engine is a `Part` (parts.py): it prepares its folder, says how to start, and
tells when it answers. Everything binds to loopback, every secret is random and kept in the data folder.
The services know nothing of this package: they get addresses.
"""
