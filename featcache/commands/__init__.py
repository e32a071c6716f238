"""What the commands do, once their options are parsed: one module a command or a family of them."""

MAX_INT = 2**31 - 1
"""The largest count or seed: what torch's generators and SQLite both hold, with room for the epochs' own streams."""
