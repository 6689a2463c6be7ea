"""Run capability tests and generate docs/capabilities.md and docs/capabilities.json.

python scripts/capabilities.py                      every row that has a test
python scripts/capabilities.py --rows MOT-1,CTF-1   some rows
python scripts/capabilities.py --rows KIL-1 --shard 3/50
python scripts/capabilities.py --page-only          only write the page from what is recorded

The rows stand in docs/capabilities.toml. What was measured is kept in docs/capabilities.json: a run replaces the
rows it ran and leaves the others, so evidence adds up over days.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS = REPOSITORY / "docs" / "capabilities.toml"
RECORD = REPOSITORY / "docs" / "capabilities.json"
PAGE = REPOSITORY / "docs" / "capabilities.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", help="comma-separated row IDs; all when empty")
    parser.add_argument("--shard", default="", help="i/n: which share of a row that gathers evidence")
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--from-lines", type=Path, help="take what a test run with --capabilities-out measured")
    parser.add_argument("--fast", action="store_true", help="leave out the tests marked slow")
    arguments = parser.parse_args()
    table = tomllib.loads(ROWS.read_text(encoding="utf-8"))["row"]
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.exists() else {}
    known = {row["id"] for row in table}
    wanted = [row for row in arguments.rows.replace(" ", "").split(",") if row]
    unknown = [row for row in wanted if row not in known]
    if unknown:
        print(f"unknown rows: {', '.join(unknown)}; the rows stand in {ROWS.relative_to(REPOSITORY)}", file=sys.stderr)
        return 2
    if arguments.from_lines:
        for row, entry in entries_of(arguments.from_lines).items():
            recorded[row] = entry
    elif not arguments.page_only:
        for row, entry in run_tests(wanted, arguments.shard, arguments.fast).items():
            recorded[row] = entry
    rows = {row["id"]: recorded.get(row["id"], {"status": "absent"}) for row in table}
    RECORD.write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(table, rows), encoding="utf-8")
    counts = {s: sum(entry["status"] == s for entry in rows.values()) for s in ("pass", "fail", "absent")}
    print(
        f"{counts['pass']} rows pass, {counts['fail']} fail, {counts['absent']} absent; "
        f"see {PAGE.relative_to(REPOSITORY)}"
    )
    return 0


def run_tests(wanted: list[str], shard: str, fast: bool) -> dict[str, dict]:
    """Run the marked tests; row -> entry of the record, for the rows that ran."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.jsonl"
        environment = dict(os.environ)
        if shard:
            environment["CRYOLOOM_SHARD"] = shard
        if wanted:
            environment["CRYOLOOM_ROWS"] = ",".join(wanted)
        marks = "capability and not slow" if fast else "capability"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            marks,
            "--capabilities-out",
            str(out),
            "-p",
            "no:cacheprovider",
        ]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
        return entries_of(out)


def entries_of(out: Path) -> dict[str, dict]:
    """Row -> entry of the record, from the lines that a test run wrote."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    by_row: dict[str, list[dict]] = {}
    for line in lines:
        by_row.setdefault(line["row"], []).append(line)
    return {row: entry_of(tests) for row, tests in by_row.items()}


def entry_of(tests: list[dict]) -> dict:
    """One row: it passes when all of its tests ran and passed."""
    statuses = {test["status"] for test in tests}
    status = "fail" if "fail" in statuses else ("pass" if statuses == {"pass"} else "absent")
    measured = [number for test in tests for number in test["measured"]]
    first = measured[0] if measured else {}
    return {
        "status": status,
        "value": first.get("value"),
        "unit": first.get("unit", ""),
        "threshold": first.get("threshold", ""),
        "bound": first.get("bound"),
        "measured": measured,
        "test": [test["test"] for test in tests],
        "hardware": tests[0]["hardware"],
        "date": max(test["date"] for test in tests),
        "commit": tests[0]["commit"],
        "seconds": round(sum(test["seconds"] for test in tests), 1),
    }


def page(table: list[dict], rows: dict[str, dict]) -> str:
    """The generated page."""
    counts = {s: sum(entry["status"] == s for entry in rows.values()) for s in ("pass", "fail", "absent")}
    out = [
        "# Capabilities",
        "",
        "Generated by `make capabilities` from `docs/capabilities.toml` and the marked tests; not edited by hand.",
        "",
        f"{counts['pass']} rows pass, {counts['fail']} fail, {counts['absent']} have no passing demonstration yet.",
        "",
    ]
    group = None
    for row in table:
        if row["group"] != group:
            group = row["group"]
            out += [
                "",
                f"## {group}",
                "",
                "| ID | Capability | Tier | Status | Measured | Asked | Hardware, date |",
                "|---|---|---|---|---|---|---|",
            ]
        entry = rows[row["id"]]
        numbers = "; ".join(shown(number) for number in entry.get("measured", []))
        when = f"{entry['hardware']}, {entry['date']}" if "hardware" in entry else ""
        out.append(
            f"| {row['id']} | {row['capability']} | {row['tier']} | {entry['status']} | {numbers} | "
            f"{row['demonstration']} | {when} |"
        )
    return "\n".join(out) + "\n"


def shown(number: dict) -> str:
    """One measured number in words."""
    value = number["value"]
    text = f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    parts = [f"{text} {number.get('unit', '')}".strip()]
    if number.get("threshold"):
        parts.append(f"(asked {number['threshold']})")
    if number.get("bound") is not None:
        parts.append(f"[bound {number['bound']}]")
    if number.get("note"):
        parts.append(number["note"])
    return " ".join(parts).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
