import re
import tomllib

import pytest

from docs.architecture import PAGE, PICTURE, TABLE, drawn_arrows, package_table
from docs.imports import packages_used, read_imports
from tem_pipeline import __version__
from tem_pipeline.settings import PROJECT_ROOT

PACKAGES = packages_used(read_imports(PROJECT_ROOT / "tem_pipeline"))
PATTERNS = ("*.md", "docs/**/*.md", "data/README.md", "data/*/README.md", "models/README.md")
PAGES = sorted(path for pattern in PATTERNS for path in PROJECT_ROOT.glob(pattern))


def prose(text: str) -> str:
    """Leave out fenced code, whose brackets are no links and whose comments are no headings."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Name the anchors of a page's headings as GitHub does."""
    headings = re.findall(r"^#+ +(.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_the_version_is_that_of_the_latest_release():
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changes = (PROJECT_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (\d+\.\d+\.\d+) – (\d{4}-\d{2}-\d{2})$", changes, flags=re.MULTILINE)
    assert releases[0][0] == project["version"] == __version__
    assert [date for _, date in releases] == sorted((date for _, date in releases), reverse=True)


def test_the_table_of_packages_is_that_of_the_code():
    written = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert written is not None
    assert written.group() == package_table(PACKAGES), "run `make docs`"


def test_the_picture_shows_the_packages_and_arrows_of_the_code():
    picture = PICTURE.read_text(encoding="utf-8")
    arrows = set(re.findall(r'<g id="(\w+)-(\w+)">', picture))
    assert arrows == drawn_arrows(PACKAGES), "run `make docs`"
    words = set(re.findall(r"\w+", " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture))))
    assert PACKAGES.keys() <= words, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    text = prose(page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_a_page_named_in_the_code_exists():
    folders = [PROJECT_ROOT / name for name in ("tem_pipeline", "benchmarks", "studies", "data", "deploy")]
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".j2", ".md", ".yaml")
    ]
    files += [PROJECT_ROOT / "Makefile", PROJECT_ROOT / "pyproject.toml", *PROJECT_ROOT.glob("*.yaml")]
    for file in files:
        for name in re.findall(r"\bdocs/[\w/-]+\.\w+", file.read_text(encoding="utf-8")):
            assert (PROJECT_ROOT / name).exists(), f"{file.relative_to(PROJECT_ROOT)} names {name}"
