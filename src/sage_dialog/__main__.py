"""Entry point of `python -m sage_dialog`: `kedro run` for the installed package."""

from typing import Any

from kedro.framework.cli.project import run
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project's pipelines; the options are those of `kedro run`."""
    configure_project("sage_dialog")
    return run(*args, **kwargs)


if __name__ == "__main__":
    main()
