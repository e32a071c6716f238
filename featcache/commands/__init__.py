"""What the commands do, once their options are parsed: one module a command or a family of them."""
