"""Entry point of `python -m sage_dialog`: `kedro run` for the installed package."""

from typing import Any

from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project's pipelines; the options are those of `kedro run`."""
    configure_project("sage_dialog")
    from sage_dialog.commands.run import run  # imports hooks, which read the project's settings

    return run(*args, **kwargs)


if __name__ == "__main__":
    main()
