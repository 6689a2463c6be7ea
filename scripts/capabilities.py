"""Run capability tests and generate docs/capabilities.md and docs/capabilities.json.

python scripts/capabilities.py                      every row that has a test
python scripts/capabilities.py --rows MOT-1,CTF-1   some rows
python scripts/capabilities.py --rows KIL-1 --shard 3/50
python scripts/capabilities.py --page-only          only write the page from what is recorded

The rows stand in docs/capabilities.toml. What was measured is kept in docs/capabilities.json, test by test: a run
replaces the tests it ran and leaves the others, so evidence adds up over days. A row passes only when all tests that
are marked with it, the slow ones too, were run and passed.
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
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", help="comma-separated row IDs; all when empty")
    parser.add_argument("--shard", default="", help="i/n: which share of a row that gathers evidence")
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--from-lines", type=Path, help="take what a test run with --capabilities-out measured")
    parser.add_argument("--fast", action="store_true", help="leave out the tests marked slow")
    arguments = parser.parse_args()
    table = tomllib.loads(ROWS.read_text(encoding="utf-8"))["row"]
    known = {row["id"] for row in table}
    wanted = [row for row in arguments.rows.replace(" ", "").split(",") if row]
    unknown = [row for row in wanted if row not in known]
    if unknown:
        print(f"unknown rows: {', '.join(unknown)}; the rows stand in {ROWS.relative_to(REPOSITORY)}", file=sys.stderr)
        return 2
    if arguments.from_lines:
        lines = lines_of(arguments.from_lines)
    elif arguments.page_only:
        lines = []
    else:
        lines = run_tests(wanted, arguments.shard, arguments.fast)
    marked = marked_tests()
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.exists() else {}
    results = {row: dict(entry.get("results", {})) for row, entry in recorded.items()}
    for line in lines:
        of_row, test = results.setdefault(line.pop("row"), {}), line.pop("test")
        if line["status"] != "skip" or test not in of_row:  # what cannot run here leaves what was measured elsewhere
            of_row[test] = line
    rows = {row["id"]: entry_of(marked.get(row["id"], []), results.get(row["id"], {})) for row in table}
    RECORD.write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(table, rows), encoding="utf-8")
    counts = {s: sum(entry["status"] == s for entry in rows.values()) for s in ("pass", "fail", "absent")}
    print(
        f"{counts['pass']} rows pass, {counts['fail']} fail, {counts['absent']} absent; "
        f"see {PAGE.relative_to(REPOSITORY)}"
    )
    return 0


def run_tests(wanted: list[str], shard: str, fast: bool) -> list[dict]:
    """Run the marked tests; one line per row and test that ran."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.jsonl"
        environment = dict(os.environ)
        if shard:
            environment["CRYOLOOM_SHARD"] = shard
        if wanted:
            environment["CRYOLOOM_ROWS"] = ",".join(wanted)
        marks = "capability and not slow" if fast else "capability"
        subprocess.run(
            [*PYTEST, "-m", marks, "--capabilities-out", str(out)], cwd=REPOSITORY, env=environment, check=False
        )
        return lines_of(out)


def lines_of(out: Path) -> list[dict]:
    """What a test run wrote; nothing when it ran no marked test."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def marked_tests() -> dict[str, list[str]]:
    """Row -> names of all tests marked with it, slow ones too; the tests are collected, not run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "marked.json"
        environment = {name: value for name, value in os.environ.items() if name != "CRYOLOOM_ROWS"}
        command = [*PYTEST, "-q", "--collect-only", "-m", "capability", "--capabilities-list", str(out)]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"the tests could not be collected, and nothing was recorded:\n{done.stdout[-2000:]}")
        marked: dict[str, list[str]] = json.loads(out.read_text())
        return marked


def entry_of(marked: list[str], results: dict[str, dict]) -> dict:
    """One row: it fails when one of its tests failed, and passes when all of them ran and passed.

    Results of tests that no longer exist are dropped. A row some of whose tests were never run counts as absent and
    shows what was measured and which tests are missing.
    """
    ran = {test: results[test] for test in marked if test in results}
    if not ran:
        return {"status": "absent"}
    statuses = {test["status"] for test in ran.values()}
    complete = len(ran) == len(marked) and statuses == {"pass"}
    measured = [number for test in ran.values() for number in test["measured"]]
    first = measured[0] if measured else {}
    latest = max(ran.values(), key=lambda test: test["date"])
    return {
        "status": "fail" if "fail" in statuses else "pass" if complete else "absent",
        "value": first.get("value"),
        "unit": first.get("unit", ""),
        "threshold": first.get("threshold", ""),
        "bound": first.get("bound"),
        "measured": measured,
        "test": list(ran),
        "not_run": [test for test in marked if results.get(test, {}).get("status", "skip") == "skip"],
        "hardware": latest["hardware"],
        "date": latest["date"],
        "commit": latest["commit"],
        "seconds": round(sum(test["seconds"] for test in ran.values()), 1),
        "results": ran,
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
        if entry.get("not_run"):
            numbers += f" ({len(entry['not_run'])} of its tests not run)"
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
