"""Tables for a terminal, for Markdown and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from common.result import Figure, Goal, Row, Table

__all__ = ["machine_lines", "markdown", "print_table", "to_json"]

NOTHING = "-"


def print_table(console: Console, name: str, table: Table) -> None:
    """Print a group's table: text to the left, numbers to the right, goals last."""
    shown = RichTable(
        title=f"{name}: {table.title}",
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    columns = _columns(table)
    with_goals = any(row.goals for row in table.rows)
    shown.add_column(table.heading)
    for column in columns:
        shown.add_column(column, justify="left" if _is_text(table, column) else "right")
    if with_goals:
        shown.add_column("goal")
        shown.add_column("reached")
    for row in table.rows:
        cells: list[str | Text] = [row.name, *(_cell(row.figures.get(column)) for column in columns)]
        if with_goals:
            cells += ["\n".join(goal.wanted for goal in row.goals), _verdicts(row)]
        shown.add_row(*cells)
    console.print(shown)
    for note in table.notes:
        console.print(note, style="dim", highlight=False)
    console.print()


def markdown(results: Mapping[str, Table], machine: Mapping[str, str]) -> str:
    """Return all tables as a page."""
    lines = ["# Benchmark results", ""]
    lines += ["| machine | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in machine.items()]
    for name, table in results.items():
        lines += ["", f"## {name}: {table.title}", "", *_markdown_table(table), ""]
        lines += [f"{note}\n" for note in table.notes]
        lines += [f"![{name}]({name}.png)"]
    return "\n".join(lines) + "\n"


def machine_lines(machine: Mapping[str, str]) -> str:
    """Return the machine for a terminal."""
    width = max(map(len, machine))
    return "\n".join(f"{key:{width}}  {value}" for key, value in machine.items())


def to_json(table: Table) -> dict[str, Any]:
    """Return a table for scripts."""
    return {
        "title": table.title,
        "rows": [
            {
                "name": row.name,
                **row.figures,
                "goals": [{"goal": goal.wanted, "found": goal.found, "reached": goal.reached} for goal in row.goals],
            }
            for row in table.rows
        ],
        "notes": list(table.notes),
    }


def _markdown_table(table: Table) -> list[str]:
    columns = _columns(table)
    with_goals = any(row.goals for row in table.rows)
    header = [table.heading, *columns, *(("goal", "reached") if with_goals else ())]
    ruler = ["---", *("---" if _is_text(table, column) else "---:" for column in columns)]
    ruler += ["---", "---"] if with_goals else []
    lines = [header, ruler]
    for row in table.rows:
        cells = [row.name, *(_cell(row.figures.get(column)) for column in columns)]
        if with_goals:
            cells += [
                "<br>".join(goal.wanted for goal in row.goals),
                "<br>".join(_verdict(goal) for goal in row.goals),
            ]
        lines.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _columns(table: Table) -> Sequence[str]:
    """Return the columns of all rows, each once."""
    return list(dict.fromkeys(column for row in table.rows for column in row.figures))


def _is_text(table: Table, column: str) -> bool:
    return any(isinstance(row.figures.get(column), str) for row in table.rows)


def _cell(figure: Figure) -> str:
    if figure is None:
        return NOTHING
    return figure if isinstance(figure, str) else _digits(figure)


def _digits(value: float) -> str:
    """Return three digits, or all before the point."""
    decimals = next((count for limit, count in ((100, 0), (10, 1), (0.1, 2)) if abs(value) >= limit), 3)
    return "0" if value == 0 else f"{value:,.{decimals}f}"


def _verdict(goal: Goal) -> str:
    return f"{'yes' if goal.reached else 'no'}: {goal.found}"


def _verdicts(row: Row) -> Text:
    return Text("\n").join(Text(_verdict(goal), style="green" if goal.reached else "red") for goal in row.goals)
