#!/usr/bin/env python3
"""Put faults back into the core, one by one, and see after how many histories the simulation finds each.

Usage: tools/put_back.py [NAME...]

Works in a copy of the repository's crates below target/, and prints the table of docs/TESTING.md.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "put_back"
SEEDS = 2000

CORE, REGISTRY = "crates/core/src", "crates/registry/src"
KEEPER, WINDOW = f"{CORE}/keeper/mod.rs", f"{CORE}/window.rs"

# Name, what it is, the options of the simulation, and the edits: file, what stands there, what is put there.
FAULTS = [
    (
        "F1",
        "no record where the open window reaches further",
        "",
        [
            (
                f"{CORE}/reserved.rs",
                "        journal.write(node, limit.max(above)).await?;\n",
                "        if limit > above {\n            journal.write(node, limit).await?;\n        }\n",
            )
        ],
    ),
    (
        "F2",
        "a promotion is one only by a trace of it",
        "",
        [
            (
                WINDOW,
                "    !is_first || !is_leased && others().any(|record| !identity.is_own(record))\n",
                "    let _ = (is_first, is_leased);\n    others().any(|record| record.timeline < identity.timeline)\n",
            )
        ],
    ),
    (
        "F3",
        "marks of the family count only with the same worker id",
        "",
        [
            (
                WINDOW,
                "            || descends && identity.is_family(record)\n",
                "",
            )
        ],
    ),
    ("F4", "the second SIGTERM interrupts the last write", "--put-back F4", []),
    (
        "F5",
        "a release tries once, and takes that for success",
        "",
        [
            (
                f"{REGISTRY}/lease.rs",
                "            return store.withdraw(number).await;\n        }\n    }\n    Err(not_kept())\n",
                "            return store.withdraw(number).await;\n        }\n        break;\n    }\n    Ok(())\n",
            )
        ],
    ),
    (
        "F8",
        "an upgraded node does not know its past",
        "",
        [
            (
                WINDOW,
                "        record.node == *self.node || self.past.contains(&record.node)\n",
                "        record.node == *self.node\n",
            )
        ],
    ),
    (
        "F9",
        "the lease on disk counts whatever the registry has answered",
        "",
        [
            (
                KEEPER,
                "self.own.lease().filter(|_| !answered)?",
                "self.own.lease().filter(|_| !answered || true)?",
            )
        ],
    ),
    (
        "F9 a",
        "the lease on disk counts also if it has ended",
        "",
        [
            (
                KEEPER,
                "if !asked.range.contains(&id) || kept.until <= look.reading.now {",
                "if !asked.range.contains(&id) {",
            )
        ],
    ),
    (
        "F9 b",
        "the lease on disk counts also if it is of an earlier timeline",
        "",
        [
            (
                f"{CORE}/keeper/own_record.rs",
                "self.lease.as_ref().filter(|_| self.is_present)",
                "self.lease.as_ref().filter(|_| self.is_present || true)",
            )
        ],
    ),
    (
        "F10",
        "a failure is forgotten with the next look",
        "",
        [
            (
                KEEPER,
                "        self.own.failed |= records.is_err();\n",
                "",
            )
        ],
    ),
    ("F12", "an order that was given up is carried out later", "--put-back F12", []),
    (
        "F14",
        "another worker id begins within the tick",
        "",
        [
            (
                f"{CORE}/allocator.rs",
                "        Some(last) if node != before && !follows(last) => end_of_tick(layout, last),\n",
                "        Some(last) if node != before && !follows(last) && last == 0 => end_of_tick(layout, last),\n",
            )
        ],
    ),
    ("F16", "a registry's commit that warns is one", "--put-back F16", []),
    (
        "F17",
        "the lead of the family is what the setting says",
        "",
        [
            (
                WINDOW,
                "    let max_ahead = max_ahead.max(beginning.max_ahead);\n",
                "    let _ = max_ahead;\n    let max_ahead = beginning.max_ahead;\n",
            )
        ],
    ),
    (
        "guard",
        "no guard",
        "",
        [
            (
                WINDOW,
                "max_ahead.saturating_add(beginning.guard)",
                "max_ahead.saturating_add(beginning.guard & 0)",
            )
        ],
    ),
    (
        "own mark",
        "the node's own mark does not count at a start",
        "",
        [
            (
                WINDOW,
                "            None => identity.is_own(record),\n",
                "            None => false,\n",
            )
        ],
    ),
    (
        "floor",
        "a window begins at its floor, also below what was issued",
        "",
        [
            (
                f"{CORE}/allocator.rs",
                "(node, in_order(layout, before, node, end).max(floor))",
                "(node, if floor > 0 { floor } else { in_order(layout, before, node, end) })",
            )
        ],
    ),
    (
        "write",
        "a window is published without being written",
        "",
        [
            (
                f"{CORE}/reserved.rs",
                "        journal.write(node, limit.max(above)).await?;\n",
                "        let _ = (journal, above);\n",
            )
        ],
    ),
    (
        "unknown write",
        "a write that failed is taken for one",
        "",
        [
            (
                KEEPER,
                "                self.own.failed = true;\n                Err(failure)\n            }\n        }\n    }\n\n    /// Changes only",
                "                drop(failure);\n                Ok(())\n            }\n        }\n    }\n\n    /// Changes only",
            )
        ],
    ),
    (
        "lease end",
        "a window reaches beyond its lease",
        "",
        [
            (
                KEEPER,
                "let limit = end.min(leased.unwrap_or(u64::MAX));",
                "let _ = leased;\n        let limit = end;",
            )
        ],
    ),
    (
        "lease floor",
        "a leased worker id begins with the clock",
        "",
        [
            (
                WINDOW,
                "let leased = beginning.leased_from.map_or(0, |from| tick_from(layout, from));",
                "let leased = beginning.leased_from.map_or(0, |from| tick_from(layout, from) & 0);",
            )
        ],
    ),
    (
        "claim",
        "a claimed worker id is used at once",
        "",
        [
            (
                f"{REGISTRY}/holder.rs",
                "        if tenure.record.state == State::Claimed {\n            let wait",
                "        if tenure.record.state == State::Claimed && retry(self.terms).is_zero() {\n            let wait",
            )
        ],
    ),
    (
        "clock watch",
        "a jump of the clock is believed",
        "",
        [
            (
                f"{CORE}/clock_watch.rs",
                "max_jump.is_some_and(|max| jump > max)",
                "max_jump.is_some_and(|max| jump > max && max == 0)",
            )
        ],
    ),
    (
        "last id",
        "a stop in order records nothing",
        "",
        [
            (
                KEEPER,
                "                self.write(open.assigned.node, held, *end, &look).await\n            }\n            None if on_disk",
                "                let _ = (open, held, end);\n                Ok(())\n            }\n            None if on_disk",
            )
        ],
    ),
    (
        "cursor",
        "a mark may be below what was issued by a clock that was set back",
        "",
        [
            (
                KEEPER,
                "let above = position.limit.max(position.cursor);",
                "let above = position.limit;",
            )
        ],
    ),
    (
        "newest past",
        "of several names the latest clock decides",
        "",
        [
            (
                f"{CORE}/keeper/own_record.rs",
                "(past.map_or(usize::MAX, |place| place), record.updated_at)",
                "(past.map_or(usize::MAX, |_| 0), record.updated_at)",
            )
        ],
    ),
    (
        "release order",
        "a worker id is given back before it is written down",
        "",
        [
            (
                KEEPER,
                "        self.amend(None).await?;\n        if let Some(before) = self.leased.take() {",
                "        if let Some(before) = self.leased.take() {",
            )
        ],
    ),
    ("twins", "admitted: two running nodes with one worker id", "--admit twins", []),
    (
        "forgetting",
        "admitted: a registry forgets while nodes are away",
        "--admit forgetting",
        [],
    ),
    (
        "slow standby",
        "admitted: a standby's clock is further behind than the guard",
        "--admit slow-standby",
        [],
    ),
]


def copied():
    """A fresh copy of what the simulation is made of."""
    for name in ("crates", "Cargo.toml", "Cargo.lock"):
        source, target = ROOT / name, COPY / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            COPY.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    # The extension itself is not needed, nor what it depends on.
    manifest = (COPY / "Cargo.toml").read_text()
    members = re.sub(r'members = \[".", ', "members = [", manifest)
    members = re.sub(r"\n\[package\].*?(?=\n\[profile)", "\n", members, flags=re.DOTALL)
    (COPY / "Cargo.toml").write_text(members)


def found(name, options, edits):
    """After how many histories it is found, and as what."""
    kept = {}
    for file, old, new in edits:
        path = COPY / file
        text = path.read_text()
        kept.setdefault(path, text)
        if text.count(old) != 1:
            raise SystemExit(f"{name}: {file} does not have, once: {old}")
        path.write_text(text.replace(old, new))
    try:
        command = [
            "cargo",
            "run",
            "--quiet",
            "--profile",
            "simulation",
            "-p",
            "snowflake-simulation",
            "--",
        ]
        command += [
            "--seed",
            "1",
            "--seeds",
            str(SEEDS),
            "--tries",
            "0",
            *options.split(),
        ]
        result = subprocess.run(
            command, cwd=COPY, capture_output=True, text=True, check=False
        )
    finally:
        for path, text in kept.items():
            path.write_text(text)
    if "0 violations" in result.stdout:
        return "not found", ""
    number = re.search(r"the (\d+)\. history", result.stdout)
    what = re.search(r"^VIOLATION: (.*)$", result.stdout, re.MULTILINE)
    if not number or not what:
        return "error", result.stderr.strip()[-300:]
    return number[1], what[1]


def main():
    copied()
    wanted = sys.argv[1:]
    for name, what, options, edits in FAULTS:
        if not wanted or name in wanted:
            number, how = found(name, options, edits)
            print(f"| {name} | {what} | {number} | {how} |", flush=True)


if __name__ == "__main__":
    main()
