"""Tables for a reader that may leave."""

from rich.console import Console


class PipedConsole(Console):
    """Leaves it to the command to say that nobody reads, where rich would end with 1."""

    def on_broken_pipe(self) -> None:
        """Raise what it is called for."""
        raise BrokenPipeError
