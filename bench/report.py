"""What results look like: as text, as the tables of docs/BENCHMARKS.md, and as its picture."""

import re
import statistics
import textwrap
from dataclasses import dataclass


@dataclass
class Figure:
    """The median of what the rounds gave, with quartiles; and what the project demands of it, if anything."""

    values: list
    form: str
    unit: str = ""
    most: float = None
    least: float = None
    below: float = None

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def quartiles(self):
        if len(self.values) == 1:
            return self.values * 2
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return [low, high]

    @property
    def required(self):
        """In words, or nothing."""
        limits = ("<= ", self.most), (">= ", self.least), ("< ", self.below)
        return " and ".join(f"{sign}{limit:,g}{self.unit}" for sign, limit in limits if limit is not None)

    @property
    def met(self):
        """Whether the median, unrounded, is as required."""
        return (
            (self.most is None or self.median <= self.most)
            and (self.least is None or self.median >= self.least)
            and (self.below is None or self.median < self.below)
        )

    @property
    def verdict(self):
        return "met" if self.met else "MISSED"

    def value(self):
        """The median, with its spread if there is one."""
        middle = f"{self.median:{self.form}}{self.unit}"
        return middle if len(self.values) == 1 else f"{middle} [{' '.join(f'{q:{self.form}}' for q in self.quartiles)}]"

    def __str__(self):
        return f"{self.value()} ({self.required}: {self.verdict})" if self.required else self.value()


@dataclass
class Table:
    """The first column of a row is what the row is about."""

    text: str
    headers: list
    rows: list


def above(rounds, name, base):
    """What a variant took more than another, round by round."""
    return [row[name] - row[base] for row in rounds]


def ratio(rounds, name, other, base=None):
    """What a variant took in proportion to another, round by round; both above the base, if there is one."""
    empty = [row[base] if base else 0 for row in rounds]
    return [(row[name] - each) / (row[other] - each) for row, each in zip(rounds, empty)]


# ---------------------------------------------------------------------- text


def print_section(section, preamble, data):
    print(f"\n=== {section.title}\n\n{textwrap.fill(caption(preamble, data), 100)}", flush=True)
    for table in section.tables(data):
        print(f"\n{textwrap.fill(table.text, 100)}\n")
        print_table(table.headers, table.rows)


def print_table(headers, rows):
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *rows)]
    for row in [headers, ["-" * width for width in widths], *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip(), flush=True)


def caption(preamble, data):
    """Under which circumstances figures came about, in a line."""
    # What another program measures has rounds of its own.
    rounds = "" if isinstance(data["rounds"], dict) else f", {len(data['rounds'])} rounds"
    return (
        f"PostgreSQL {preamble['server']}, snowflake_id {preamble['extension']} of commit {preamble['commit']}, "
        f"{preamble['machine']}, {preamble['date']}{rounds}"
    )


# ------------------------------------------------------------------ markdown


def render(results, sections, page, target_page, target_picture):
    """Write the page anew from the one that there is, and the picture."""
    blocks = {"required": required_block(results, sections), "runs": runs_block(results)}
    for section in sections:
        blocks[section.name] = section_block(results, section)
    text = page.read_text()
    for name, block in blocks.items():
        # What was not measured stands as it was.
        if block:
            marked = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            if len(marked.findall(text)) != 1:
                raise ValueError(f"{page} has not one place for {name}")
            before, after = marked.search(text).span(1)[1], marked.search(text).span(2)[0]
            text = f"{text[:before]}\n{block}\n\n{text[after:]}"
    target_page.write_text(text)
    draw(results, sections, target_picture)


def measured(results, section):
    """Preamble and data of each server that the section was measured on, the oldest first."""
    for major in sorted(results, key=int):
        if section.name in results[major]:
            entry = results[major][section.name]
            yield entry["preamble"], entry["data"]


def section_block(results, section):
    parts = []
    for preamble, data in measured(results, section):
        parts.append(f"*{wrap(caption(preamble, data))}*")
        for table in section.tables(data):
            parts += [wrap(escape(table.text)), markdown(table)]
    return "\n\n".join(parts)


def markdown(table):
    def cell(value):
        if isinstance(value, Figure):
            shown = escape(value.value())
            verdict = "met" if value.met else "**missed**"
            return f"{shown}<br>({escape(value.required)}: {verdict})" if value.required else shown
        return escape(value)

    rows = [table.headers, ["---"] + ["--:"] * (len(table.headers) - 1)]
    rows += [[cell(each) for each in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def required_block(results, sections):
    """Everything that is required, in one table."""
    rows = []
    for section in sections:
        for preamble, data in measured(results, section):
            for table in section.tables(data):
                about = f", {table.text.split(':')[0]}" if len(section.tables(data)) > 1 else ""
                for row in table.rows:
                    for header, cell in zip(table.headers, row):
                        if isinstance(cell, Figure) and cell.required:
                            what = f"{row[0]}{about}: {header}"
                            link = f"[{section.title}](#{section.title.lower().replace(' ', '-')})"
                            verdict = "met" if cell.met else "**missed**"
                            server = preamble["server"].split()[0]
                            rows.append([link, server, escape(what), escape(cell.required), cell.value(), verdict])
    if not rows:
        return ""
    headers = ["section", "PostgreSQL", "figure", "required", "measured", ""]
    return "\n".join(f"| {' | '.join(row)} |" for row in [headers, ["---"] * 4 + ["--:", "---"], *rows])


def runs_block(results):
    """The machine, the versions and the command, of each server's last section."""
    parts = []
    for major in sorted(results, key=int):
        preamble = max((entry["preamble"] for entry in results[major].values()), key=lambda each: each["date"])
        parts.append(
            f"| PostgreSQL | {preamble['server']} |\n"
            "| --- | --- |\n"
            f"| machine | {preamble['machine']} |\n"
            f"| kernel, clock source | {preamble['kernel']}, {preamble['clock source']} |\n"
            f"| compilers | {preamble['rustc']}; {preamble['cc']} |\n"
            f"| snowflake_id | {preamble['extension']}, commit {preamble['commit']} |\n"
            f"| date | {preamble['date']} |\n"
            f"| command | `{preamble['command']}` |"
        )
    return "\n\n".join(parts)


def escape(text):
    """Nothing that markdown would take for its own."""
    return re.sub(r"([|*])", r"\\\1", text).replace("<= ", "≤ ").replace(">= ", "≥ ").replace("< ", "&lt; ")


def wrap(text):
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


# ------------------------------------------------------------------- picture


@dataclass
class Panel:
    """One column of one of a section's tables, as bars."""

    section: str
    column: int
    title: str
    text: str
    table: int = 0
    without: tuple = ()  # rows that are no comparison
    floor: tuple = ()  # rows that are the least there can be
    scale: str = ""  # the longest bar that is shown whole; the longest of all, if there is none


PANELS = [
    Panel(
        section="calls",
        column=1,
        title="One call inside a statement",
        text="ns above the empty loop: less is better",
        without=("(empty loop)", "C function: empty"),
        floor=("C function",),
        scale="nextval(), CACHE 1",
    ),
    Panel(
        section="eight",
        column=1,
        title="Eight backends at once",
        text="million calls per second, the loop included: more is better",
        without=("(empty loop)", "C function: empty"),
        floor=("C function",),
    ),
    Panel(
        section="inserts",
        column=2,
        title="INSERT of a million rows",
        text="time in proportion to bigserial: less is better",
        floor=("ids for nothing",),
        scale="bigserial",
    ),
    Panel(
        section="clients",
        column=2,
        table=1,
        title="pgbench, 8 clients",
        text="transactions in proportion to SELECT 1: more is better",
        floor=("SELECT 1", "SELECT C function"),
    ),
]

OURS, OTHERS, FLOOR, FINE = "#1f6f8b", "#b4bcc4", "#e1e5e8", "#5b6570"


def draw(results, sections, path):
    """The main comparisons: medians as bars, quartiles as lines."""
    import matplotlib

    matplotlib.use("svg")
    # The same results make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "snowflake_id"
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    from matplotlib import pyplot

    by_name = {section.name: section for section in sections}
    panels = [(panel, bars) for panel in PANELS if (bars := bars_of(results, by_name[panel.section], panel))]
    if not panels:
        return
    lines = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(lines, 2, figsize=(13, 3.7 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (panel, bars) in zip(axes.flat, panels):
        draw_panel(axis, panel, bars)
    figure.tight_layout(h_pad=2, w_pad=3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def bars_of(results, section, panel):
    """What a panel shows: names and figures."""
    bars, first = {}, None
    for preamble, data in measured(results, section):
        major = preamble["server"].split(".")[0]
        first = first or major
        # Of a newer server only what the older one does not have.
        known = [name.partition(", PostgreSQL")[0] for name in bars]
        for row in section.tables(data)[panel.table].rows:
            if row[0] not in known and row[0] not in panel.without:
                bars[row[0] if major == first else f"{row[0]}, PostgreSQL {major}"] = row[panel.column]
    return bars


def draw_panel(axis, panel, bars):
    whole = [bars[panel.scale]] if panel.scale in bars else bars.values()
    limit = 1.1 * max(each.quartiles[1] for each in whole)
    for n, (name, bar) in enumerate(bars.items()):
        least = any(name.startswith(floor) or name.endswith(floor) for floor in panel.floor)
        colour = OURS if "snowflake" in name else FLOOR if least else OTHERS
        axis.barh(n, min(bar.median, limit), color=colour, height=0.68)
        shown = f"{bar.median:{bar.form}}"
        if bar.quartiles[1] <= limit:
            axis.plot(bar.quartiles, [n, n], color=FINE, linewidth=1)
            axis.text(bar.quartiles[1] + limit * 0.015, n, shown, va="center", fontsize=8.5)
        else:
            axis.text(limit * 0.985, n, f"{shown}, beyond the scale  \u2192", va="center", ha="right", fontsize=8.5)
    axis.set_yticks(range(len(bars)), bars)
    axis.set_xlim(0, limit * 1.1)
    axis.invert_yaxis()
    axis.set_title(f"{panel.title}\n", fontsize=11, fontweight="bold", loc="left")
    axis.text(0, 1.03, panel.text, transform=axis.transAxes, fontsize=8.5, color=FINE)
    axis.tick_params(axis="both", length=0, labelsize=8.5)
    axis.set_xticks([])
    for side in "top", "right", "bottom":
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color("#9aa3ab")
