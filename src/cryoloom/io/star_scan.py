"""Rows of a large STAR loop in one pass: where they end, and the same rows with one blank between words.

A table of a million rows has some 250 MB; searching it for each kind of end and folding runs of blanks by
`bytes.replace` walks through it a dozen times. This compiled pass does it once. Small tables never come here.
"""

import numba
import numpy as np

_NEWLINE, _BLANK = 10, 32


def fold_rows(data: bytes, start: int) -> tuple[memoryview, int, int, bool]:
    """Fold the rows that begin at `start`.

    Parameters
    ----------
    data
        The file, tabs already blanks.
    start
        First byte of the first row.

    Returns
    -------
    folded
        The rows, one blank between words, none at the ends of lines, one newline after each row.
    end
        Where the rows end in `data`: at an empty line, the next block or loop, or the end.
    n_rows
        Number of rows.
    special
        Whether a word begins with a quote, `#` or `;`, which takes the tokeniser.
    """
    source = np.frombuffer(data, np.uint8)
    out = np.empty(len(source) - start + 1, np.uint8)
    length, end, n_rows, special = _fold(source, start, out)
    return out[:length].data, int(end), int(n_rows), bool(special)


@numba.njit(nogil=True, cache=True)
def _fold(source, start, out):  # type: ignore[no-untyped-def] # pragma: no cover
    n = len(source)
    at, length, n_rows = start, 0, 0
    special = False
    while at < n:
        line = at
        while at < n and source[at] == _BLANK:
            at += 1
        if at >= n or source[at] == _NEWLINE:
            return length, line, n_rows, special  # an empty line
        # data_ or loop_, in any case (bit 5 is the case of a letter)
        if at + 5 <= n and source[at + 4] == 95:
            a, b, c, d = source[at] | 32, source[at + 1] | 32, source[at + 2] | 32, source[at + 3] | 32
            if (a == 100 and b == 97 and c == 116 and d == 97) or (a == 108 and b == 111 and c == 111 and d == 112):
                return length, line, n_rows, special
        while at < n and source[at] != _NEWLINE:
            byte = source[at]
            if byte == 34 or byte == 39 or byte == 35 or byte == 59:
                special = True
            while byte != _BLANK and byte != _NEWLINE:
                out[length] = byte
                length += 1
                at += 1
                if at >= n:
                    break
                byte = source[at]
            while at < n and source[at] == _BLANK:
                at += 1
            if at < n and source[at] != _NEWLINE:
                out[length] = _BLANK
                length += 1
        out[length] = _NEWLINE
        length += 1
        n_rows += 1
        at += 1
    return length, n, n_rows, special
