#!/usr/bin/env python3
"""Checks that a folder of src/ includes only itself and those above it in src/CMakeLists.txt.

The order there is the only list: this script reads it. Public headers (freekv/...) are open to
all, and include nothing from src/.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def layer_order() -> list[str]:
    text = (ROOT / "src/CMakeLists.txt").read_text()
    found = re.search(r"foreach\(folder ([^)]*)\)", text)
    if not found:
        sys.exit("src/CMakeLists.txt has no foreach(folder ...) list")
    return found.group(1).split()


def violations(order: list[str]) -> list[str]:
    rank = {folder: i for i, folder in enumerate(order)}
    found = []
    for path in sorted(ROOT.glob("src/**/*")):
        if path.suffix not in {".hpp", ".cc", ".cu", ".cuh"}:
            continue
        own = path.relative_to(ROOT / "src").parts[0]
        if own not in rank:
            found.append(f"{path.relative_to(ROOT)}: folder {own} is not in src/CMakeLists.txt")
            continue
        for included in INCLUDE.findall(path.read_text()):
            folder = included.split("/")[0]
            if folder in rank and rank[folder] > rank[own]:
                found.append(f"{path.relative_to(ROOT)}: includes {included}, {folder} is above {own}")
    for path in sorted(ROOT.glob("include/**/*.hpp")):
        for included in INCLUDE.findall(path.read_text()):
            if not included.startswith("freekv/"):
                found.append(f"{path.relative_to(ROOT)}: a public header includes {included}")
    return found


if __name__ == "__main__":
    problems = violations(layer_order())
    print("\n".join(problems) if problems else "layers: every include points down")
    sys.exit(1 if problems else 0)
