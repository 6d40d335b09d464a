"""``make audit``: known vulnerabilities, wheels by their hashes, secrets in the tree."""
