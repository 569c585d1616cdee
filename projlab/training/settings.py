"""What all constraints of one optimizer share."""

from typing import Literal, NamedTuple

Mode = Literal["tangent", "post", "metric"]


class Settings(NamedTuple):
    """What all constraints of one optimizer share."""

    mode: Mode
    variant: str
    coupled: bool | None
    log: int

    def __str__(self) -> str:
        decay = "" if self.coupled is None else f", coupled_weight_decay={self.coupled}"
        return f'mode="{self.mode}", variant="{self.variant}", log={self.log}{decay}'
