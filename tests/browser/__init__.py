"""The dashboard in a real Chromium, against the real system or the contract server."""
