"""What all constraints of one optimizer share."""

from typing import Literal, NamedTuple

Mode = Literal["tangent", "post", "metric"]


class Settings(NamedTuple):
    """What all constraints of one optimizer share."""

    mode: Mode
    variant: str
    coupled: bool | None
    log: int
    multipliers: bool

    def __str__(self) -> str:
        more = "" if self.coupled is None else f", coupled_weight_decay={self.coupled}"
        more += ", multipliers=True" if self.multipliers else ""
        return f'mode="{self.mode}", variant="{self.variant}", log={self.log}{more}'
