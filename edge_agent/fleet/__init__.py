"""Whom this board obeys: the fleet's key that is pinned here, and what is signed for it and by it."""
