# SPDX-License-Identifier: MIT
"""The files of this tree, without git: a copy without .git, or one that belongs to another user, is checked just as well."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {".git", "build", "__pycache__"}


def files(*suffixes, root=ROOT):
    """Paths relative to the root, sorted; with suffixes (".c", ".h") only those."""
    found = []
    for folder, names, members in os.walk(root):
        names[:] = [n for n in names if n not in NOT_OURS]
        for member in members:
            path = Path(folder, member).relative_to(root)
            if (not suffixes or path.suffix in suffixes) and path.suffix != ".pyc" and (root / path).is_file():
                found.append(path)
    return sorted(found)
