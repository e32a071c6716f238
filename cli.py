"""`python cli.py ...` runs featcache from a bare checkout; the installed command is `featcache`."""

from featcache.__main__ import command

if __name__ == "__main__":
    command()
