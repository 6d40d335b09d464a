"""Certificates as both sides know them: whom one is for, the device's key and request, renewal.

All but ``subject`` import ``cryptography``, which costs 10 MB: an agent runs them in a child.
"""
