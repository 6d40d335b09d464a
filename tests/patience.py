"""How long a test waits for what must happen, in seconds.

No test passes or fails by it on a machine that does its work, however many others keep its cores busy: what a test
waits for comes by itself, and this ends the wait for what never comes.
"""

PATIENCE_S = 600.0
