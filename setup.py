"""Which packages there are. All else stands in pyproject.toml, which cannot say this without naming every folder."""

from pathlib import Path

from setuptools import find_packages, setup

# The configs stand at the top of the repository, where people look for them, and inside the installed package.
ROOT = Path(__file__).parent
CONFIGS = [
    "configs",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "configs").rglob("*")) if path.is_dir()),
]
PLACES = {f"beit.{folder.replace('/', '.')}": folder for folder in CONFIGS}

setup(
    packages=[*find_packages(str(ROOT), include=["beit", "beit.*"]), *PLACES],
    package_dir=PLACES,
    package_data={"": ["*.yaml", "*.txt", "**/*.txt", "py.typed"]},
)
