"""`python -m resumable`: the command line, where the `resumable` script is not on the path."""

from resumable.cli import main

if __name__ == "__main__":
    main()
