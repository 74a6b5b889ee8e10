"""`python -m fastdml`: the same as the command `fastdml`."""

from fastdml.cli import main

if __name__ == "__main__":
    main()
