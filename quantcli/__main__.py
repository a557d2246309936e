"""Lets ``python -m quantcli`` run the command line."""

from quantcli.cli import main

if __name__ == "__main__":
    main()
