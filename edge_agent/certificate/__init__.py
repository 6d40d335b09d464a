"""The device's certificate: how long it is valid, and how it is renewed."""
