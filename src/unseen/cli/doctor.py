"""``unseen doctor``."""

import typer

from unseen.cli.doctor_checkpoint import checkpoint

doctor = typer.Typer(help="Look at files and say what they are.", no_args_is_help=True)
doctor.command("checkpoint")(checkpoint)


@doctor.callback()
def _callback() -> None:
    """Keep ``checkpoint`` a command of its own."""
