"""Foreign bytes for every parser: a value, or an error of the class that its docstring names.

``python -m tests.fuzz run --inputs 5000000 --out FILE`` goes on where FILE ends; ``make fuzz`` does the same.
"""
