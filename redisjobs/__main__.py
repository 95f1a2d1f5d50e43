"""The console script, and `python -m redisjobs`."""

import sys


def main() -> None:
    """Run the command line; it needs the extra `worker`, which a mere producer does not install."""
    try:
        from redisjobs.cli.app import run

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich", "click"):
            raise
        print(
            f"redisjobs: the command line needs {missing}; in a checkout of redisjobs: pip install '.[worker]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
