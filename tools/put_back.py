#!/usr/bin/env python3
"""Put faults back into the core, one by one, and see after how many histories the simulation finds each.

Usage: tools/put_back.py [--seeds N] [--threads N] [NAME...]

Works in a copy of the repository's crates below target/, and prints the table of docs/TESTING.md. All faults
are in one program there, and a variable of the environment says which of them is put back.
"""

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "put_back"
VARIABLE = "SNOWFLAKE_PUT_BACK"

CORE, REGISTRY = "crates/core/src", "crates/registry/src"
KEEPER, WINDOW, ALLOCATOR = f"{CORE}/keeper/mod.rs", f"{CORE}/window.rs", f"{CORE}/allocator.rs"
OWN_RECORD, LEASE = f"{CORE}/keeper/own_record.rs", f"{REGISTRY}/lease.rs"

# Name, what it is, and the edits: in which file, what stands there, and what is put there. Either is an
# expression or a statement; PUT_BACK within the latter is the condition, which else is put around both.
FAULTS = [
    (
        "F1",
        "no record is written where the open window of another worker id reaches further",
        [
            (
                f"{CORE}/reserved.rs",
                "journal.write(node, limit.max(above)).await?;",
                "if limit > above { journal.write(node, limit).await?; }",
            )
        ],
    ),
    (
        "F2",
        "a promotion is one only by a trace of it",
        [
            (
                WINDOW,
                "!is_first || !is_leased && others().any(|record| !identity.is_own(record))",
                "others().any(|record| record.timeline < identity.timeline)",
            )
        ],
    ),
    (
        "F3",
        "marks of the family count only with the same worker id",
        [(WINDOW, "descends && identity.is_family(record)", "false")],
    ),
    ("F4", "the second SIGTERM interrupts the last write", []),
    (
        "F5",
        "a release that loses its compare-and-swap is taken for one",
        [
            (
                LEASE,
                "store.swap(number, Some(entry.revision), &next.to_json()).await?",
                "{ store.swap(number, Some(entry.revision), &next.to_json()).await?; true }",
            )
        ],
    ),
    (
        "F8",
        "an upgraded node does not know its past",
        [
            (
                WINDOW,
                "is_one.then_some(Inherited { record, last: newest })",
                "None",
            )
        ],
    ),
    (
        "F9 a",
        "the lease on disk counts also when it has ended",
        [
            (KEEPER, "kept.until <= look.reading.now", "false"),
            (
                KEEPER,
                "Held { number, floor, until, nonce, followed: false }",
                "Held { until: until.max(look.reading.now + 60_000_000), number, floor, nonce, followed: false }",
            ),
        ],
    ),
    (
        "F9 b",
        "the lease on disk counts also if it is of an earlier timeline",
        [(OWN_RECORD, "self.lease.as_ref().filter(|_| self.is_present)", "self.lease.as_ref()")],
    ),
    ("F10", "a failure is forgotten with the next look", [(KEEPER, "self.own.failed |= records.is_err();", "")]),
    ("F12", "an order that was given up is carried out later", []),
    ("F14", "another worker id begins within the tick", [(ALLOCATOR, "node != before && !follows(last)", "false")]),
    ("F16", "a registry's commit that warns is taken for one", []),
    (
        "F17",
        "the lead of the family is what the setting says",
        [(WINDOW, "max_ahead.max(beginning.max_ahead)", "beginning.max_ahead")],
    ),
    ("guard", "no guard", [(WINDOW, "max_ahead.saturating_add(beginning.guard)", "max_ahead")]),
    (
        "own mark",
        "the node's own mark does not count at a start",
        [(WINDOW, "None => identity.is_own(record),", "None => !PUT_BACK && identity.is_own(record),")],
    ),
    (
        "floor",
        "a window begins at its floor, also below what was issued",
        [
            (
                ALLOCATOR,
                "(node, in_order(layout, before, node, end).max(floor))",
                "(node, if floor > 0 { floor } else { in_order(layout, before, node, end) })",
            )
        ],
    ),
    (
        "block",
        "a block outlives its window, and a floor",
        [(ALLOCATOR, "self.window.0.begin.store(self.cursor.0.load(Ordering::Acquire), Ordering::Release);", "")],
    ),
    (
        "settled",
        "what was read before a window was closed decides where the next one begins",
        [
            (
                KEEPER,
                "-> Option<(Open, u64)> {\n        self.opening = None;",
                "-> Option<(Open, u64)> {\n        if !PUT_BACK { self.opening = None; }",
            )
        ],
    ),
    (
        "write",
        "a window is published without being written",
        [(f"{CORE}/reserved.rs", "journal.write(node, limit.max(above)).await?;", "let _ = above;")],
    ),
    (
        "unknown write",
        "a write that failed is taken for one",
        [
            (
                KEEPER,
                "            Err(failure) => {\n                self.own.unknown();",
                "            Err(_) if PUT_BACK => Ok(()),\n            Err(failure) => {\n                self.own.unknown();",
            )
        ],
    ),
    (
        "records",
        "a node that runs does not read the records again",
        [
            (
                KEEPER,
                "self.look_at_others(&open).await?",
                "{ self.look_at_others(&open).await?; 0 }",
            )
        ],
    ),
    ("lease end", "a window reaches beyond its lease", [(KEEPER, "end.min(leased.unwrap_or(u64::MAX))", "end")]),
    (
        "lease floor",
        "a leased worker id begins with the clock",
        [(WINDOW, "beginning.leased_from.map_or(0, |from| tick_from(layout, from))", "0")],
    ),
    (
        "lease anew",
        "a lease that ended in between goes on where it was",
        [(KEEPER, "assigned.floor() > open.assigned.floor()", "false")],
    ),
    (
        "taken early",
        "a worker id is leased before its last lease has ended",
        [(LEASE, "found.1.until <= now", "true"), (LEASE, "found.until.max(now)", "now")],
    ),
    (
        "claim",
        "a worker id that is only claimed is used at once",
        [
            (
                f"{REGISTRY}/holder.rs",
                "        if tenure.record.state == State::Claimed {\n            let wait",
                "        if !PUT_BACK && tenure.record.state == State::Claimed {\n            let wait",
            )
        ],
    ),
    (
        "release order",
        "a worker id is given back before that is written down",
        [
            (
                KEEPER,
                "        self.amend(None).await?;\n        if let Some(before) = self.leased.take() {",
                "        if !PUT_BACK { self.amend(None).await?; }\n        if let Some(before) = self.leased.take() {",
            )
        ],
    ),
    (
        "clock watch",
        "a jump of the clock is believed",
        [(f"{CORE}/clock_watch.rs", "max_jump.is_some_and(|max| jump > max)", "false")],
    ),
    (
        "last id",
        "a stop in order records nothing",
        [(KEEPER, "self.write(open.assigned.node, held, *end, &look).await", "Ok(())")],
    ),
    (
        "lease unused",
        "a lease that was got and not used yet is on disk after a stop",
        [
            (
                KEEPER,
                "held.as_ref().is_some_and(|held| self.own.says(held.number, Some(&held.nonce)))",
                "held.as_ref().is_some_and(|held| self.own.lease_end(held.number).is_some())",
            )
        ],
    ),
    (
        "order",
        "a start with a smaller worker id begins within the tick of the last id",
        [(WINDOW, "Some(if follows { slot } else { next.min(self.layout.last_slot()) })", "Some(slot)")],
    ),
    (
        "upgrade",
        "the record from before an upgrade is taken for the last word",
        [(WINDOW, "return last < identity.timeline;", "return last > 0 && last < identity.timeline;")],
    ),
    (
        "newest of the family",
        "which record was the node's own before an upgrade, the clock decides alone",
        [(WINDOW, "(record.timeline, record.host == host, record.updated_at)", "(0, false, record.updated_at)")],
    ),
]

# What docs/GUARANTEES.md admits.
ADMITTED = [
    ("twins", "admitted: two running nodes with one worker id"),
    ("forgetting", "admitted: a registry forgets while a node cannot reach it"),
    ("slow-standby", "admitted: a standby is promoted whose clock is further behind than the guard"),
]

# The faults of the server's side, which the simulation has to imitate.
IMITATED = ("F4", "F12", "F16")

CONDITION = """
/// Which fault has been put back.
pub fn put_back(fault: &str) -> bool {
    static FAULT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    FAULT.get_or_init(|| std::env::var("%s").unwrap_or_default()) == fault
}
"""


def copied():
    """A fresh copy of what the simulation is made of."""
    for name in ("crates", "Cargo.toml", "Cargo.lock"):
        source, target = ROOT / name, COPY / name
        if source.is_dir():
            # As of now: what is older than the last build would not be built again.
            shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copy)
        else:
            COPY.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    # The extension itself is not needed, nor what it depends on.
    manifest = (COPY / "Cargo.toml").read_text()
    members = re.sub(r"members = \[.*?\]", 'members = ["crates/*"]', manifest, flags=re.DOTALL)
    members = re.sub(r"\n\[package\].*?(?=\n\[profile)", "\n", members, flags=re.DOTALL)
    (COPY / "Cargo.toml").write_text(members)


def edited():
    """All faults are put into the copy, each under its condition."""
    with (COPY / CORE / "lib.rs").open("a") as file:
        file.write(CONDITION % VARIABLE)
    places = {}
    for name, _, edits in FAULTS:
        for file, old, new in edits:
            places.setdefault((file, old), []).append((name, new))
    for (file, old), faults in places.items():
        path = COPY / file
        text = path.read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{faults[0][0]}: {file} does not have, once: {old}")
        put = old
        for name, new in faults:
            crate = "crate" if file.startswith(CORE) else "snowflake_core"
            condition = f'{crate}::put_back("{name}")'
            if "PUT_BACK" in new:
                put = new.replace("PUT_BACK", condition)
            else:
                put = f"if {condition} {{ {new} }} else {{ {put} }}"
                put = put if old.endswith(";") else f"({put})"
        path.write_text(text.replace(old, put))


def built():
    """The program, with all faults in it."""
    command = ["cargo", "build", "--quiet", "--profile", "simulation", "-p", "snowflake-simulation"]
    target = COPY / "target"
    allowed = {"RUSTFLAGS": "-Awarnings", "CARGO_TARGET_DIR": str(target)}
    subprocess.run(command, cwd=COPY, env=os.environ | allowed, check=True)
    return target / "simulation" / "snowflake-simulation"


def found(program, fault, arguments, options):
    """After how many histories it is found, and as what."""
    command = [program, "--seed", "1", "--seeds", str(options.seeds), "--threads", str(options.threads)]
    command += ["--tries", "0", *arguments]
    environment = os.environ | {VARIABLE: fault}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "0 violations" in result.stdout:
        return f"not in {options.seeds}", ""
    number = re.search(r"the (\d+)\. history", result.stdout)
    what = re.search(r"^VIOLATION: (.*)$", result.stdout, re.MULTILINE)
    if not number or not what:
        raise SystemExit(f"{fault} {arguments}: {result.stderr.strip()[-1000:]}")
    return number[1], what[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="histories that are tried at most")
    parser.add_argument("--threads", type=int, default=2, help="histories at once")
    parser.add_argument("name", nargs="*", help="of the faults; all, if there is none")
    options = parser.parse_args()
    runs = [(name, what, ["--put-back", name] if name in IMITATED else []) for name, what, _ in FAULTS]
    runs += [(name, what, ["--admit", name]) for name, what in ADMITTED]
    unknown = set(options.name) - {name for name, *_ in runs}
    if unknown:
        raise SystemExit(f"not known: {', '.join(sorted(unknown))}")
    copied()
    edited()
    program = built()
    for name, what, arguments in runs:
        if not options.name or name in options.name:
            number, how = found(program, name, arguments, options)
            print(f"| {what} ({name}) | {number} | {how} |", flush=True)


if __name__ == "__main__":
    main()
