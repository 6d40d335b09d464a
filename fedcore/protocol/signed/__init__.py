"""Who says it, and when: Ed25519 signatures, and the envelope in which every control message travels."""
