"""The table of `docs/compatibility.md`, made of the rows that the tests run; run this file to write it there."""

from __future__ import annotations

from pathlib import Path

from loader_kinds import (
    AT_PRECISIONS,
    GPU_PRECISIONS,
    KINDS,
    ON_GPU,
    PRECISIONS,
    REFUSED,
    STAGES,
    on_two_processes,
    selected,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- table: python tests/compatibility/table.py -->\n", "<!-- end of the table -->\n"


def table() -> str:
    """The table and its footnotes, in Markdown."""
    notes: list[str] = []

    def no(error: str, who: str) -> str:
        note = f"{who}: {error} ..."
        if note not in notes:
            notes.append(note)
        return f"no [{notes.index(note) + 1}]"

    elsewhere = (on_two_processes(), *(selected(AT_PRECISIONS) for _ in PRECISIONS), selected(ON_GPU))
    head = (
        "loader",
        "where the size lives",
        *STAGES,
        "two processes",
        *PRECISIONS,
        f"GPU: {', '.join(GPU_PRECISIONS)}",
    )
    rows = [head, ("---",) * len(head)]
    for name, kind in KINDS.items():
        stages = [no(kind.impossible[at], "Lightning") if at in kind.impossible else "yes" for at in STAGES]
        others = [", ".join(stage for row, stage in cells if row == name) for cells in elsewhere]
        rows.append((kind.title, kind.where, *stages, *others))
    for refused in REFUSED.values():
        stages = [no(refused.error, "bstuner") for _ in STAGES]
        rows.append((refused.title, refused.where, *stages, *[""] * len(elsewhere)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""])


def committed() -> tuple[str, str, str]:
    """The document before its table, the table, and the rest."""
    before, rest = DOCUMENT.read_text().split(BEGIN)
    inside, after = rest.split(END)
    return before, inside.strip("\n") + "\n", after


if __name__ == "__main__":
    before, _, after = committed()
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
