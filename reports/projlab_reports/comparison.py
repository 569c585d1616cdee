"""What `projlab compare` found, at the terminal and as one self-contained page.

Takes the payload that `--json` prints, read from a file or handed over, and imports no engine.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from projlab_reports import files, page, scatter, units
from projlab_reports.piped import PipedConsole
from projlab_reports.terminal import STYLES
from projlab_reports.units import MISSING

Payload = Mapping[str, Any]
ComparedSystem = Mapping[str, Any]
Line = Mapping[str, Any]

PAGE, DATA = "compare.html", "compare.json"

PIPE_WIDTH = 120
"""Columns where the output is no terminal: nothing is squeezed that a program or a file takes."""

SHORT_ROW, SHOWN_ROWS = 72, 3
"""Characters of a combination of rows that is written whole among the facts, and how many are; the
data holds them whole."""

TERM = re.compile(r"( [+-] )")
"""What stands between two terms of a combination of rows."""

SHORT = {"certificate": "cert.", "high precision": "high p.", "nothing": MISSING}


def show(payload: Payload, console: Console | None = None) -> None:
    """Print every system: what it is, one line a variant, and the recommendation."""
    if console is None:
        console = PipedConsole()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = PipedConsole(width=PIPE_WIDTH)
    for i, system in enumerate(compared(payload)):
        if i:
            console.print()
        console.print(Text(title(system), style="bold"))
        for what, text in facts(system):
            console.print(Text.assemble((f"  {what}: ", "dim"), text))
        for row in described(system)["conflicting"]:
            console.print(Text.assemble(("  conflict ", STYLES["fail"]), row))
        if answered(system):
            for table in lines_tables(system, console):
                console.print(table, crop=False)
        for word, text in remarks(system):
            console.print(Text.assemble((f"  {word} ", STYLES[word]), text))
        advice = system["recommendation"]
        console.print(Text(advice["text"], style="bold"))
        if advice["code"]:
            console.print(Text(indent(advice["code"], "    "), style="cyan"), soft_wrap=True)
        for change in advice["changes"]:
            console.print(Text(f"  - {change}"))
    for line in legend(payload):
        console.print(Text(line, style="dim"))


def lines_tables(system: ComparedSystem, console: Console) -> list[Table]:
    """Return one row a variant or peer that answered, in as many tables as the width asks for.

    No figure is broken or cut: a column that does not fit stands in a further table.
    """
    tables, taken, count = [], 0, len(headings(system))
    while taken < count:
        most = count
        while most > taken + 1 and _width(_table(system, taken, most), console) > console.width:
            most -= 1
        tables.append(_table(system, taken, most))
        taken = most
    return tables


def _table(system: ComparedSystem, first: int, end: int) -> Table:
    """Return the columns from `first` to before `end` of every line, after its name."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True, overflow="ignore")
    for heading in headings(system)[first:end]:
        shown = ABBREVIATED.get(heading, heading)
        table.add_column(shown, justify="right", no_wrap=True, overflow="ignore")
    for line in answered(system):
        style = STYLES["fail"] if line["verdict"] == "fail" else ""
        cells = row(line)
        cells[1] = SHORT.get(cells[1], cells[1])
        table.add_row(Text(line["name"], style=style), *cells[first:end])
    return table


def compared(payload: Payload) -> list[ComparedSystem]:
    """Every system, those with inequalities or bounds last."""
    return [*payload["systems"], *payload.get("bounded", [])]


def described(system: ComparedSystem) -> Mapping[str, Any]:
    """What is known of the equations; nothing where the set has inequalities or bounds."""
    nothing = {"rank": 0, "ambiguous": False, "conflicting": (), "conflicting_count": 0}
    known: Mapping[str, Any] = system.get("system", {**nothing, "redundant": ()})
    return known


def headings(system: ComparedSystem) -> tuple[str, ...]:
    """What stands over the columns of a system's lines."""
    return HEADINGS if "system" in system else BOUNDED_HEADINGS


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=1000)).maximum


HEADINGS = (
    "forward error",
    "judged by",
    "feasibility",
    "stationarity",
    "set-up",
    "one projection",
    "stacked, a point",
    "memory",
    "pays from",
)

BOUNDED_HEADINGS = (
    "forward error",
    "judged by",
    "feasibility",
    "set-up",
    "one projection",
    "once more",
    "its own status",
)

ABBREVIATED = {
    "feasibility": "feas.",
    "stationarity": "stat.",
    "one projection": "one",
    "stacked, a point": "stacked",
}
BOUNDED_LEGEND = (
    "with inequalities or bounds: one: the first projection, of a peer its whole call through "
    "cvxpy; once more: the same again, from the active set that was found; feas.: the largest miss "
    "of a row or bound, scaled"
)
LEGEND = (
    "feas., stat.: scaled feasibility and stationarity residuals; one: a projection; stacked: a "
    "point of many together; pays from: from so many projections on, set-up included, it costs "
    "less than whoever costs least for one"
)

JUDGES = {
    "exact": "exact: x* in rational arithmetic",
    "ball": "ball: a ball that is proven to hold x*, far smaller than the error shown",
    "high precision": "high p.: x* in higher precision, at the defined rank",
    "certificate": "cert.: a bound that is proven without x*, of which the error may be far less",
}
"""What the words of the column "judged by" mean."""

KAPPA_U = (
    "κu: condition number times unit roundoff, what a backward-stable method loses for the worst x0"
)


def legend(payload: Payload) -> list[str]:
    """Explain the words that stand in the tables and in the advice, and no others."""
    systems = compared(payload)
    if not any(map(answered, systems)):
        return []
    explained = [LEGEND] if any(map(answered, payload["systems"])) else []
    explained += [BOUNDED_LEGEND] if any(map(answered, payload.get("bounded", []))) else []
    judges = {line["judged_by"] for system in systems for line in answered(system)}
    advice = [system["recommendation"] for system in systems]
    said = " ".join(text for a in advice for text in (a["text"], *a["changes"]))
    words = [JUDGES[judge] for judge in JUDGES if judge in judges]
    return [
        *explained,
        *(["; ".join(words)] if words else []),
        *([KAPPA_U] if "κu" in said else []),
    ]


def row(line: Line) -> list[str]:
    """The cells of one line, in the order of `headings`."""
    if "claimed" in line:
        return [
            nearness(line),
            line["judged_by"] if line["judged_by"] != "nothing" else MISSING,
            units.figure(_number(line["feasibility"])),
            *(units.duration(_number(line[key])) for key in ("setup_s", "project_s", "again_s")),
            line["claimed"],
        ]
    return [
        nearness(line),
        line["judged_by"] if line["judged_by"] != "nothing" else MISSING,
        units.figure(_number(line["feasibility"])),
        units.figure(_number(line["stationarity"])),
        MISSING if line["kind"] == "peer" else units.duration(_number(line["setup_s"])),
        units.duration(_number(line["project_s"])),
        units.duration(_number(line["stacked_s"])),
        units.size(_number(line["held_bytes"])),
        MISSING if line["pays_from"] is None else f"{line['pays_from']:,}",
    ]


def nearness(line: Line) -> str:
    """The forward error, or what the certificate proves it to be at most."""
    if line["judged_by"] == "certificate":
        return f"≤ {units.figure(_number(line['at_most']))}"
    return units.figure(_number(line["forward_error"]))


def title(system: ComparedSystem) -> str:
    """Name a system by its file."""
    return f"{Path(system['file']).name}, {system['dtype']}"


def answered(system: ComparedSystem) -> list[Line]:
    """The lines that carry an answer."""
    return [line for line in system["lines"] if line["status"] == "ok"]


def remarks(system: ComparedSystem) -> list[tuple[str, str]]:
    """Verdict and text of what did not answer, or not as it should; one reason stands once."""
    names: dict[tuple[str, str], list[str]] = {}
    for line in system["lines"]:
        if line["verdict"] != "pass":
            names.setdefault((line["verdict"], line["why"]), []).append(line["name"])
    return [(verdict, f"{', '.join(who)}: {why}") for (verdict, why), who in names.items()]


def facts(system: ComparedSystem) -> list[tuple[str, str]]:
    """What the system is, as pairs of words."""
    if "system" not in system:
        return _facts_with_bounds(system)
    s = system["system"]
    what = (
        f"{s['m']:,} equations in {s['n']:,} variables, {s['nnz']:,} nonzeros "
        f"({100 * s['density']:.3g} %)"
    )
    pairs = [("system", what), ("structure", "; ".join(s["structure"]))]
    if system["note"]:
        pairs.append(("read as", system["note"]))
    least, most = s["row_norms"]
    pairs.append(("row norms", f"from {least:.3g} to {most:.3g}"))
    if s["rank"] is None:
        return [*pairs, ("not known", s["unknown"]), ("point", system["x0"])]
    doubt = ", ambiguous: a cutoff ten times away changes it" if s["ambiguous"] else ""
    pairs += [
        ("numerical rank", f"{s['rank']:,} of {s['m']:,} rows{doubt}; {_gap(s)}"),
        ("condition number", _condition(s)),
        ("redundant rows", _redundant(s)),
        ("consistency", _consistency(s)),
        *([("solutions", ONE_POINT)] if _one_point(s) else []),
        ("rank decision", f"{units.duration(_number(s['analysis_s']))}, once for all variants"),
        ("point", system["x0"]),
    ]
    return pairs


def _facts_with_bounds(system: ComparedSystem) -> list[tuple[str, str]]:
    fixed = f", {system['fixed']:,} of them fixed" if system["fixed"] else ""
    what = (
        f"{system['equations']:,} equations and {system['inequalities']:,} inequalities in "
        f"{system['variables']:,} variables, {system['bounded']:,} of them with bounds{fixed}"
    )
    noted = [("read as", system["note"])] if system["note"] else []
    if system["equations"]:
        noted.append(("variants", "`--equations` compares them on the equations alone"))
    return [("system", what), *noted, ("point", system["x0"])]


ONE_POINT = "exactly one: the set is one point, the projection of every x0"


def _one_point(s: ComparedSystem) -> bool:
    return s["rank"] == s["n"] and not s["ambiguous"] and not s["conflicting_count"]


def _gap(s: ComparedSystem) -> str:
    last, following = (_number(value) for value in s["gap"])
    gap = f"the last singular value that counts is {last:.2g} of the largest"
    if following:
        gap += f", the next {following:.2g}"
    return f"{gap}; cutoff {s['cutoff']:.2g}"


def _condition(s: ComparedSystem) -> str:
    after = f"{units.figure(_number(s['condition']))} of equilibrated rows"
    before = _number(s["condition_as_given"])
    if math.isnan(before):
        return after
    more = " or more" if s["condition_is_least"] else ""
    return f"{after}; {units.figure(before)}{more} of the rows as given"


def _redundant(s: ComparedSystem) -> str:
    count = s["redundant_count"]
    if not count:
        return "none"
    shown = [shortened(row) for row in s["redundant"][:SHOWN_ROWS]]
    more = f"; and {count - len(shown)} more" if count > len(shown) else ""
    return f"{count}: {'; '.join(shown)}{more}"


def shortened(combination: str) -> str:
    """Return a combination of rows, cut after a term where it is long, its other terms counted."""
    if len(combination) <= SHORT_ROW:
        return combination
    terms = TERM.split(combination)  # a term, a sign, a term, ...
    kept = 1
    while kept + 2 < len(terms) and len("".join(terms[: kept + 2])) <= SHORT_ROW:
        kept += 2
    left = (len(terms) - kept) // 2
    if not left:
        return combination
    return f"{''.join(terms[:kept])} and {left} more {'terms' if left > 1 else 'term'}"


def _consistency(s: ComparedSystem) -> str:
    count = s["conflicting_count"]
    if not count:
        return f"some x satisfies every equation{_tolerated(s)}"
    rows = "row contradicts" if count == 1 else "rows contradict"
    return f"no x does: {count} {rows} the others, by up to {s['off']:.3g} in b"


def _tolerated(s: ComparedSystem) -> str:
    count = s.get("tolerated_count", 0)
    if not count:
        return ""
    row = "1 row misses what" if count == 1 else f"{count} rows miss what"
    return f", taking b as --b-error says: {row} the others imply by up to {s['tolerated_off']:.2g}"


def verdict(payload: Payload) -> str:
    """The comparison in a sentence."""
    systems = compared(payload)
    broken = [
        f"{line['name']} on {title(s)}"
        for s in systems
        for line in s["lines"]
        if line["kind"] == "variant" and line["verdict"] == "fail"
    ]
    count = f"{len(systems)} systems" if len(systems) > 1 else "One system"
    unreached = [title(s) for s in systems if not s["recommendation"].get("reached", True)]
    if unreached and not broken:
        wanted = payload["asked"]["accuracy"]
        return f"{count}: no variant reaches {wanted:g} on {', '.join(unreached)}."
    if broken:
        return f"{count}: outside what theory promises: {', '.join(broken)}."
    if payload["exit_code"] == 3:
        return f"{count}: no variant was checked."
    return f"{count}: every answer of a variant is within what theory promises of it."


def render(payload: Payload) -> str:
    """Return the page."""
    environment = page.environment()
    helpers: dict[str, Callable[..., Any]] = {
        "answered": answered,
        "described": described,
        "facts": facts,
        "headings": headings,
        "nearness": nearness,
        "remarks": remarks,
        "row": row,
        "title": title,
    }
    environment.globals.update(helpers)
    environment.filters["duration"] = lambda value: units.duration(_number(value))
    environment.filters["figure"] = lambda value: units.figure(_number(value))
    systems: Sequence[ComparedSystem] = compared(payload)
    charts = [_chart(i, system, payload) for i, system in enumerate(systems)]
    template = environment.get_template("compare.html.j2")
    return template.render(
        payload=payload,
        systems=systems,
        charts=charts,
        verdict=verdict(payload),
        legend=[line for line in legend(payload) if line != LEGEND],
    )


def _chart(i: int, system: ComparedSystem, payload: Payload) -> Markup:
    """Draw forward error against time; "" where fewer than two points would stand."""
    points = [
        scatter.Point(
            line["name"],
            line["project_s"],
            line["at_most"] if line["judged_by"] == "certificate" else line["forward_error"],
            peer=line["kind"] == "peer",
            at_most=line["judged_by"] == "certificate",
        )
        for line in answered(system)
        if line["judged_by"] != "nothing"
    ]
    if len(points) < 2:
        return Markup("")
    drawn = scatter.svg(points, system["dtype"], payload["asked"]["accuracy"], prefix=f"s{i}-")
    return Markup(drawn)  # noqa: S704  matplotlib's own, its texts escaped by matplotlib


def write(payload: Payload, folder: Path) -> Path:
    """Write the page and its data into a folder, both whole or none; return the page's path."""
    contents = {
        DATA: json.dumps(payload, indent=2, ensure_ascii=False) + "\n",
        PAGE: render(payload),
    }
    files.write(folder, contents)
    return folder / PAGE


def _number(value: float | None) -> float:
    """A figure of the payload: null is a missing one."""
    return math.nan if value is None else float(value)
