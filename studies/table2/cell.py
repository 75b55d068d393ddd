"""What one cell of Table 2 is. The cells themselves are declared in `studies.table2.settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynagent.runs.config import RunConfig

NUM_SEEDS = 20


@dataclass(frozen=True)
class Cell:
    """One set of parameters and the number of its seeds.

    Attributes:
        name: also that of its record.
        recipe: a name of `studies.table2.settings.RECIPES`, whose parameters are among these.
        parameters: of `RunConfig`.
        with_controls: whether the dynamic policy is also compared with itself before training and with the controls of
            `dynagent.evaluation.controls`.
    """

    name: str
    recipe: str
    parameters: Mapping[str, Any] = field(hash=False)
    num_seeds: int = NUM_SEEDS
    with_controls: bool = False

    def config(self, seed: int = 0) -> RunConfig:
        """The parameters of one seed's dynamic policy."""
        from dynagent.runs.config import RunConfig  # loads torch, which the cells' names do without

        return RunConfig.from_parameters(dict(self.parameters) | {"seed": seed})
