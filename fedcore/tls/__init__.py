"""TLS as a client: the context of a connection, and what went wrong with it in one sentence.

The standard library's ``ssl`` alone: the agent's supervisor may not hold the memory of ``cryptography``.
"""
