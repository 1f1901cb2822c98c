"""`python -m mindvl_data`, and the command of the same name."""

import sys


def main() -> None:
    """Ctrl-C while the program is still being loaded ends it without a word."""
    try:
        from mindvl_data.cli import main as start
    except KeyboardInterrupt:
        sys.exit(130)
    start()


if __name__ == "__main__":
    main()
