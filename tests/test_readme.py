"""README and the pages of docs/: short enough, links that lead somewhere, snippets that are true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}; there are {anchors(file)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_compile_and_name_what_there_is(page):
    from airl import seg, vit

    for code in snippets(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("seg", "vit"):
                assert hasattr({"seg": seg, "vit": vit}[node.value.id], node.attr), f"{page.name}: {node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_modules_and_targets_that_there_are(page):
    if page.name == "results.md":  # the commands of its commits
        return
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"-m ((?:airl|benchmarks|training)[\w.]*\w)", text):
        path = ROOT / module.replace(".", "/")
        named = path.name == "NAME"  # any of them
        assert named or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"
    for target in re.findall(r"`?\bmake (\w+)(?:`|  )", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), f"{page.name}: make {target}"


def test_readme_offline_snippets_run(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Ten seconds without a download")[1].split("\n## ")[0]
    codes = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    assert len(codes) == 2, "one for each half"
    monkeypatch.chdir(tmp_path)
    for code in codes:
        exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "accuracy" in said and "True" in said
    assert (tmp_path / "out/shape/cutout.png").exists()
