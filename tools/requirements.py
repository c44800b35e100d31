"""Prints what pip has to install before the project itself can be built: its dependencies, the `dev` extra and the build tool.

pyproject.toml stays the one place where a version is written down.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path) -> list[str]:
    document = tomllib.loads(pyproject.read_text())
    project = document["project"]
    found: list[str] = (
        document["build-system"]["requires"] + project["dependencies"] + project["optional-dependencies"]["dev"]
    )
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(__file__).parent.parent / "pyproject.toml")) + "\n")
