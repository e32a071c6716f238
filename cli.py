"""`python cli.py ...` runs featcache from a bare checkout; the installed command is `featcache`."""

from featcache.cli import main

if __name__ == "__main__":
    main()
