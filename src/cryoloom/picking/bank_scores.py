"""Best and worst score of all templates of a bank, at the pixels of a tile.

The steps are products of matrices: patches with components, components with the sums that make the waves of each
reference, waves with the turns. Waves of odd order change their sign after half a turn, and a template and its half
turn scatter alike over noise, so both scores are the sum and the difference of what even and odd waves give.
"""

import numpy as np
import torch
from torch import Tensor

from cryoloom.picking.bank import Bank, Wave

Part = tuple[list[tuple[slice, Tensor]], Tensor]
"""Of some waves: columns of the components with the sums of them that make each, and what all give in the turns."""


class TileScores:
    """Scores of the templates of a bank.

    Parameters
    ----------
    bank
        The templates.
    deviation
        What the score of each is divided by, `(j,)`.
    """

    def __init__(self, bank: Bank, deviation: Tensor) -> None:
        device = deviation.device
        n = bank.n_turns
        self._n_references = len(bank.psi) // n
        self._components = bank.components.flatten(1).to(device)
        both = n % 2 == 0
        turns = n // 2 if both else n
        deviation = deviation.reshape(self._n_references, n)[:, :turns, None]
        ends = np.cumsum([wave.n_components for wave in bank.waves])
        columns = {wave.order: slice(end - wave.n_components, end) for wave, end in zip(bank.waves, ends, strict=True)}
        kinds = [[wave for wave in bank.waves if both and wave.order % 2 == odd] for odd in (0, 1)]
        even, odd = kinds if both else [list(bank.waves), []]
        self._even, self._odd = (_part(waves, columns, n, turns, deviation) if waves else None for waves in (even, odd))

    def extremes(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Largest and smallest score of all templates at pixels, from the patches around them `(m m, n)`; `(n,)`."""
        maps = self._components @ patches
        even = self._turned(self._even, maps) if self._even else maps.new_zeros(1, 1, maps.shape[1])
        if not self._odd:
            return even.amax((0, 1)), even.amin((0, 1))
        size = self._turned(self._odd, maps).abs_()
        if not self._even:
            even = torch.zeros_like(size)
        best = even.add_(size).amax((0, 1))
        return best, even.sub_(size, alpha=2).amin((0, 1))

    def _turned(self, part: Part, maps: Tensor) -> Tensor:
        """What some waves of all references give in each turn, `(p, turns, n)`."""
        sums, turns = part
        waves = maps.new_empty(turns.shape[-1], self._n_references, maps.shape[1])
        row = 0
        for columns, matrix in sums:
            n_rows = matrix.shape[0] // self._n_references
            torch.matmul(matrix, maps[columns], out=waves[row : row + n_rows].view(matrix.shape[0], -1))
            row += n_rows
        return torch.bmm(turns, waves.permute(1, 0, 2))


def _part(waves: list[Wave], columns: dict[int, slice], n: int, turns: int, deviation: Tensor) -> Part:
    """Columns of the components and the sums of them, wave by wave, and what the waves give in the turns."""
    device = deviation.device
    sums = [
        (columns[wave.order], torch.from_numpy(wave.sums()).float().flatten(0, 1).contiguous().to(device))
        for wave in waves
    ]
    given = torch.cat([torch.from_numpy(wave.turns(n)[:turns]).float() for wave in waves], 1).to(device)
    return sums, (given / deviation).contiguous()
