"""STAR files as they are: blocks of single values and of tables, all values as text.

The format is Hall's (1991, doi 10.1021/ci00002a020). The meaning of labels is `records`' business; this file knows the
syntax that RELION, crYOLO and cisTEM write. Rows go through polars, so tables of a million rows take seconds; the plain
tokeniser behind it takes every table that has quotes or comments. Values keep their text, so a file that is read and
written again says the same.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole

_TOKEN = re.compile(r"""'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\#.*)|(\S+)""")
_SPECIAL = re.compile(rb"""["'#;]""")
_LARGE = 4_000_000
_MISSING = ("<NA>", "NA", "None", "null", "?", ".")


class StarTable:
    """A `loop_` of a STAR file: columns of text under labels without their leading underscore.

    Attributes
    ----------
    frame
        The columns, all text.
    where
        File and block, for messages.
    """

    def __init__(self, frame: pl.DataFrame, where: str = "table") -> None:
        self.frame = frame
        self.where = where

    @property
    def labels(self) -> list[str]:
        """Labels in the order of the file, without underscore."""
        return self.frame.columns

    def __len__(self) -> int:
        return self.frame.height

    def __contains__(self, label: str) -> bool:
        return label in self.frame.columns

    def text(self, label: str) -> np.ndarray:
        """A column as `(n,)` str objects; equal texts share one object, so paths cost 8 bytes a row."""
        return shared_text(self._column(label))

    def numbers(self, label: str) -> np.ndarray:
        """A column as `(n,)` float64.

        Raises
        ------
        InputError
            If a value is no number; the message names row and value.
        """
        column = self._column(label)
        values = column.cast(pl.Float64, strict=False)
        if values.null_count():
            self._name_bad_value(label, column, values)
        return np.array(values.to_numpy(), dtype=np.float64)

    def integers(self, label: str) -> np.ndarray:
        """A column as `(n,)` int64; whole numbers written with a fraction (`2.000`) are taken too."""
        column = self._column(label)
        whole = column.cast(pl.Int64, strict=False)
        if not whole.null_count():
            return np.array(whole.to_numpy(), dtype=np.int64)
        values = self.numbers(label)
        bad = ~(np.abs(values) < 2**53) | (values != np.round(values))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{self.where}, row {row + 1}: _{label} is {column[row]}, expected a whole number.")
        return values.astype(np.int64)

    def best(self, label: str) -> np.ndarray:
        """A column in the narrowest type that keeps its values: int64, float64 or str."""
        column = self._column(label)
        if column.str.contains(r"^[+-]?0\d").any():  # leading zeros mean something: a name, not a number
            return shared_text(column)
        for dtype, kind in ((pl.Int64, np.int64), (pl.Float64, np.float64)):
            if dtype == pl.Float64 and column.str.contains(r"^[+-]?\d{16,}$").any():
                break
            values = column.cast(dtype, strict=False)
            if not values.null_count():
                return np.array(values.to_numpy(), dtype=kind)
        return shared_text(column)

    def _column(self, label: str) -> pl.Series:
        try:
            return self.frame[label]
        except pl.exceptions.ColumnNotFoundError:
            raise InputError(f"{self.where}: the column _{label} is missing.") from None

    def _name_bad_value(self, label: str, column: pl.Series, values: pl.Series) -> None:
        row = int(values.is_null().arg_max() or 0)
        value = str(column[row])
        hint = "write numbers with a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", value) else "correct it"
        if value in _MISSING:
            hint = "fill in a number or drop the column"
        raise InputError(f"{self.where}, row {row + 1}: _{label} is {value!r}, expected a number; {hint}.")


StarBlock = StarTable | dict[str, str]


class StarFile(dict[str, StarBlock]):
    """Blocks of a STAR file by name (without `data_`), in the order of the file.

    Attributes
    ----------
    version
        The number of `# version`, or None (then RELION assumes 30000).
    path
        Where it was read, for messages.
    """

    version: int | None = None
    path: Path | None = None


def read_star(path: Path | str) -> StarFile:
    """Read a STAR file.

    Parameters
    ----------
    path
        STAR file in UTF-8. Two blocks of one name get `_2`, `_3` appended to the later ones.

    Raises
    ------
    InputError
        If it is not a STAR file, or a row has too few or too many values.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder, a STAR file was expected.") from error
    except PermissionError as error:
        raise InputError(f"{path}: this file may not be read; mend its permissions.") from error
    return parse_star(data, path)


def parse_star(data: bytes, path: Path) -> StarFile:
    """Blocks of a STAR file that is in memory; `path` is for messages."""
    if not data or data.isspace():
        raise InputError(f"{path}: the file is empty; it was cut short or is still being written.")
    if b"\0" in data[:4096] or data[:6] == b"\x93NUMPY":
        raise InputError(f"{path}: this is a binary file, a STAR file (text) was expected.")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8.") from error
    if b"\r" in data:
        warnings.warn(f"{path}: Windows line ends (CR+LF); RELION stops on them.", stacklevel=3)
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\t", b" ").replace(b"\x0b", b" ").replace(b"\x0c", b" ")
    return _Parser(data, path).parse()


class _Parser:
    """One pass over the bytes: header lines one by one, rows of a loop as one piece."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path
        self.at = 0

    def parse(self) -> StarFile:
        star = StarFile()
        star.path = self.path
        block: str | None = None
        while (line := self._next_line()) is not None:
            start, text = line
            if text.startswith((b"#", b";")):
                found = re.match(rb"#\s*version\s+(\d{1,9})\b", text)
                if found and star.version is None:
                    star.version = int(found[1])
                continue
            word = text.split(None, 1)[0]
            if word.lower().startswith(b"data_"):
                block = self._new_name(star, word[5:].decode())
                star[block] = {}
            elif block is None:
                raise InputError(f"{self.path}, line {self._line(start)}: expected a line 'data_...'; not a STAR file.")
            elif word.lower() == b"loop_":
                if isinstance(star[block], StarTable) or star[block]:
                    block = self._new_name(star, block)
                star[block] = self._loop(block)
            elif word.startswith(b"_"):
                self._single(star, block, start, text)
            else:
                raise InputError(
                    f"{self.path}, line {self._line(start)}: {_short(text)} stands outside a table; an empty line "
                    "inside a table, or the line 'loop_' is missing."
                )
        if not star:
            raise InputError(f"{self.path}: no line 'data_...'; not a STAR file.")
        return star

    def _single(self, star: StarFile, block: str, start: int, text: bytes) -> None:
        values = star[block]
        label, *rest = _tokens(text.decode())
        if isinstance(values, StarTable):
            raise InputError(f"{self.path}, line {self._line(start)}: {label} follows a table in the same block.")
        if len(rest) != 1:
            raise InputError(
                f"{self.path}, line {self._line(start)}: {label} has {len(rest)} values, expected one "
                "(quote a value with spaces; or is 'loop_' missing?)."
            )
        if label[1:] in values:
            raise InputError(f"{self.path}, line {self._line(start)}: {label} is given twice in block {block!r}.")
        values[label[1:]] = rest[0]

    def _loop(self, block: str) -> StarTable:
        labels: list[str] = []
        while (line := self._next_line()) is not None:
            start, text = line
            if text.startswith((b"#", b";")):
                continue
            if not text.startswith(b"_"):
                self.at = start
                break
            label = text.split(None, 1)[0][1:].decode()
            if label in labels:
                raise InputError(
                    f"{self.path}, line {self._line(start)}: the column _{label} stands twice in block {block!r}; "
                    "remove one."
                )
            labels.append(label)
        where = f"{self.path}, block {block!r}" if block else str(self.path)
        if not labels:
            raise InputError(f"{where}: a loop without columns; the file is damaged.")
        first = self.at
        if len(self.data) - first > _LARGE:
            from cryoloom.io.star_scan import fold_rows

            folded, self.at, n_rows, special = fold_rows(self.data, first)
            frame = None if special else _read_folded(folded, labels, n_rows)
            if frame is None:
                frame = self._slow_rows(self.data[first : self.at], labels, where, first)
            return StarTable(frame, where)
        rows = self.data[first : self._end_of_rows()]
        return StarTable(self._rows(rows, labels, where, first), where)

    def _end_of_rows(self) -> int:
        """Move behind the rows: to an empty line, the next block or loop, or the end of the file."""
        stops = [len(self.data)]
        for mark in (b"\ndata_", b"\nloop_", b"\n\n"):
            found = self.data.find(mark, max(self.at - 1, 0))
            if found >= 0:
                stops.append(found + 1)
        end = max(min(stops), self.at)
        blank = re.compile(rb"^[ ]+$|^[ ]*(?:data_|loop_|DATA_|LOOP_)", re.MULTILINE)
        if b"\n " in self.data[self.at : end] or self.data[self.at : self.at + 1] == b" ":
            found_blank = blank.search(self.data, self.at, end)
            if found_blank:
                end = max(found_blank.start(), self.at)
        self.at = end
        return end

    def _rows(self, rows: bytes, labels: list[str], where: str, first: int) -> pl.DataFrame:
        schema = {label: pl.String for label in labels}
        if not rows.strip():
            return pl.DataFrame(schema=schema)
        if _SPECIAL.match(rows) or any(
            mark in rows and (b" " + mark in rows or b"\n" + mark in rows) for mark in (b'"', b"'", b"#", b";")
        ):
            return self._slow_rows(rows, labels, where, first)
        folded = _fold_blanks(rows)
        frame = _read_folded(folded, labels, folded.count(b"\n") + (not folded.endswith(b"\n")))
        return self._slow_rows(rows, labels, where, first) if frame is None else frame

    def _slow_rows(self, rows: bytes, labels: list[str], where: str, first: int) -> pl.DataFrame:
        columns: list[list[str]] = [[] for _ in labels]
        for number, line in enumerate(rows.decode().split("\n")):
            if line.startswith(";"):
                continue
            values = _tokens(line)
            if not values:
                continue
            if len(values) != len(labels):
                raise InputError(
                    f"{where}, line {self._line(first) + number}: {len(values)} values for {len(labels)} columns; "
                    "a value is missing, or one with spaces is not quoted."
                )
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        return pl.DataFrame(dict(zip(labels, columns, strict=True)), schema={label: pl.String for label in labels})

    def _next_line(self) -> tuple[int, bytes] | None:
        """Start and stripped text of the next line that is not blank; moves behind it."""
        while self.at < len(self.data):
            start = self.at
            end = self.data.find(b"\n", start)
            end = len(self.data) if end < 0 else end
            self.at = end + 1
            text = self.data[start:end].strip()
            if text:
                return start, text
        return None

    def _line(self, at: int) -> int:
        return self.data.count(b"\n", 0, at) + 1

    @staticmethod
    def _new_name(star: StarFile, name: str) -> str:
        number, candidate = 1, name
        while candidate in star:
            number += 1
            candidate = f"{name}_{number}"
        return candidate


def write_star(path: Path | str, blocks: Mapping[str, Any], *, version: int | None = 30001) -> None:
    """Write a STAR file (beside, then renamed) that RELION 3.1 and later read.

    Parameters
    ----------
    path
        The file.
    blocks
        By block name: a mapping of label to one value (a list), a mapping of label to columns (a loop; told apart
        by arrays or sequences that are not text), a `StarTable`, or a polars frame. Floats are written with as
        many digits as they need; a value with blanks is quoted.
    version
        The number in `# version`; 30001 is RELION 3.1 and 4, None writes no such line.
    """
    with write_whole(path) as file:
        for name, block in blocks.items():
            if version is not None:
                file.write(f"\n# version {version}\n".encode())
            file.write(f"\ndata_{name}\n\n".encode())
            frame = _as_frame(block)
            if frame is None:
                width = max((len(label) for label in block), default=0) + 2
                for label, value in block.items():
                    file.write(f"_{label:<{width}} {_quoted(_scalar_text(value))}\n".encode())
            else:
                lines = [f"_{label} #{i}\n" for i, label in enumerate(frame.columns, 1)]
                file.write(("loop_\n" + "".join(lines)).encode())
                if frame.height:
                    _write_rows(frame, file)
            file.write(b"\n")


def shared_text(column: pl.Series) -> np.ndarray:
    """A text column as `(n,)` objects in which equal texts are one object."""
    if len(column) == 0:
        return np.zeros(0, dtype=object)
    unique = column.unique(maintain_order=True)
    if 2 * len(unique) > len(column):
        return column.to_numpy().astype(object)
    codes = column.cast(pl.Enum(unique)).to_physical().to_numpy()
    return unique.to_numpy().astype(object)[codes]


def text_column(values: np.ndarray | Sequence[Any]) -> pl.Series:
    """A column of polars from strings or objects."""
    return pl.Series([str(v) for v in np.asarray(values, dtype=object)], dtype=pl.String)


def _as_frame(block: Any) -> pl.DataFrame | None:
    """The rows of a loop, or None for single values."""
    if isinstance(block, StarTable):
        return block.frame
    if isinstance(block, pl.DataFrame):
        return block
    is_column = [not isinstance(v, str) and isinstance(v, np.ndarray | Sequence | pl.Series) for v in block.values()]
    if not block or not all(is_column):
        return None
    return pl.DataFrame({label: _as_series(values) for label, values in block.items()})


def _as_series(values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return pl.Series(values.astype(np.int64))
    if values.dtype.kind == "b":
        return pl.Series(values.astype(np.int64))
    if values.dtype.kind == "f":
        return pl.Series(np.ascontiguousarray(values))
    return text_column(values)


def _write_rows(frame: pl.DataFrame, file: Any) -> None:
    columns = []
    for series in frame.iter_columns():
        if series.dtype in (pl.Float32, pl.Float64):
            series = series.cast(pl.String).str.replace("^NaN$", "nan")
        elif series.dtype == pl.String and series.str.contains(r"""[\s"']|^$|^[#;_$]|^(?i)(data_|loop_)""").any():
            series = pl.Series(series.name, [_quoted(v) for v in series.to_list()], dtype=pl.String)
        columns.append(series)
    pl.DataFrame(columns).write_csv(file, include_header=False, separator=" ", quote_style="never", null_value="nan")


def _quoted(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise InputError(f"{text[:40]!r}: a value with a line break cannot be written to a STAR file; rename it.")
    if text and not re.search(r"""[\s"']|^[#;_$]|^(?:data_|loop_)""", text, re.IGNORECASE):
        return text
    if '"' in text and "'" in text:
        raise InputError(
            f"{text[:80]!r}: a value with both kinds of quotes cannot be written to a STAR file; rename it."
        )
    return f"'{text}'" if '"' in text else f'"{text}"'


def _scalar_text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return str(value)


def _tokens(line: str) -> list[str]:
    """Words of a line; quotes hold blanks together, `#` at the start of a word begins a comment."""
    words = []
    for match in _TOKEN.finditer(line):
        if match[3] is not None:
            break
        words.append(next(group for group in match.groups() if group is not None))
    return words


def _read_folded(rows: bytes | memoryview, labels: list[str], n_rows: int) -> pl.DataFrame | None:
    """Rows whose words are parted by one blank, or None if a row has too few or too many words."""
    schema = {label: pl.String for label in labels}
    if n_rows == 0:
        return pl.DataFrame(schema=schema)
    try:
        frame = pl.read_csv(
            io.BytesIO(rows), separator=" ", has_header=False, schema=schema, quote_char=None, infer_schema=False
        )
    except (pl.exceptions.PolarsError, ValueError):
        return None
    return None if frame.height != n_rows or frame[labels[-1]].null_count() else frame


def _fold_blanks(rows: bytes) -> bytes:
    """One blank between words, none at the ends of lines."""
    while b"  " in rows:
        rows = rows.replace(b"        ", b" ").replace(b"  ", b" ")
    rows = rows.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" \n")
    while b"\n\n" in rows:
        rows = rows.replace(b"\n\n", b"\n")
    return rows


def _short(text: bytes) -> str:
    shown = text[:40].decode(errors="replace")
    return repr(shown + ("..." if len(text) > 40 else ""))


def iter_tables(star: StarFile) -> Iterator[tuple[str, StarTable]]:
    """Names and tables of the blocks that are loops."""
    for name, block in star.items():
        if isinstance(block, StarTable):
            yield name, block
