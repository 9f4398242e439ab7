"""The pages people read: their width, their links, and what they must not name."""

import functools
import pathlib
import re
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).parents[1]
TOP = ("README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md")
PAGES = [ROOT / name for name in TOP]
PAGES += sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "api.md")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES += DECISIONS
WIDTH = 100

FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
# An absolute path of the machine that a page was written on, or a name of one.
MACHINE = re.compile(r"(?<![\w./:])/(?:home|root|work|tmp|Users|mnt)/|\w\.(?:local|internal|lan)\b")


def prose(page):
    """(number, line) of each line outside of code and tables."""
    text = FENCE.sub(lambda block: "\n" * block.group().count("\n"), page.read_text())
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith(("|", "    ")):
            yield number, line


@functools.cache
def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    found = []
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        repeats = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None
                      for other in found)  # fmt: skip
        found.append(f"{anchor}-{repeats}" if repeats else anchor)
    return found


def problem_of_link(page, link):
    """What is wrong with a link of a page, or None."""
    if re.match(r"[a-z]+:", link):
        return None
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return f"there is no {name}"
    if not target.is_relative_to(ROOT):
        return f"{name} lies outside of the repository"
    if anchor and anchor not in anchors(target):
        return f"{target.name} has no heading #{anchor}"
    return None


class PagesTest(unittest.TestCase):
    def test_lines_of_prose_fit_a_screen(self):
        for page in PAGES:
            long = [f"{page.name}:{n} ({len(x)})" for n, x in prose(page) if len(x) > WIDTH]
            self.assertEqual(long, [], "Wrap these lines at 100 columns.")

    def test_the_readme_fits_sixty_lines(self):
        self.assertLessEqual(len((ROOT / "README.md").read_text().splitlines()), 60)

    def test_links_and_anchors_lead_somewhere(self):
        for page in PAGES:
            for link in LINK.findall(FENCE.sub("", page.read_text())):
                self.assertIsNone(problem_of_link(page, link), f"{page.name}: ({link})")

    def test_no_page_names_a_machine(self):
        for page in PAGES:
            for number, line in enumerate(page.read_text().splitlines(), 1):
                self.assertIsNone(MACHINE.search(line), f"{page.name}:{number}: {line}")

    def test_every_page_of_docs_is_linked_from_another_one(self):
        links = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in PAGES
            for link in LINK.findall(page.read_text())
        }
        alone = [page.name for page in PAGES if page.parent.name == "docs" and page not in links]
        self.assertEqual(alone, [])

    def test_a_decision_says_in_its_first_line_what_superseded_it(self):
        for page in DECISIONS:
            first, *rest = page.read_text().splitlines()
            self.assertRegex(first, r"^(# \d{4}:? |Superseded by \[(\d{4})\]\(\2-[\w-]+\.md\))")
            self.assertNotRegex("\n".join(rest), r"[Ss]uperseded by", page.name)


class MapTest(unittest.TestCase):
    """The table of docs/overview.md that says which file decides something."""

    def test_it_names_files_that_exist_and_every_room(self):
        package = ROOT / "tf_proxquant"
        section = (ROOT / "docs" / "overview.md").read_text().split("## Which file decides\n")[1]
        rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
        named = set()
        for row in rows[1:]:
            where = re.findall(r"`([\w/.]+(?:/|\.py))`", row.split("|")[2])
            self.assertTrue(where, row)
            for name in where:
                places = [package / name, package / where[0] / name]
                self.assertTrue(any(place.exists() for place in places), name)
                named.add(name.split("/")[0])
        rooms = {path.name for path in package.iterdir() if not path.name.startswith(("_", "py."))}
        self.assertEqual(rooms - named, set(), "Say what these rooms decide.")


class ChecksTest(unittest.TestCase):
    """The checks above can fail."""

    def test_what_does_not_exist_is_found(self):
        page = ROOT / "README.md"
        self.assertIn("there is no", problem_of_link(page, "docs/nowhere.md"))
        self.assertIn("no heading", problem_of_link(page, "docs/choosing.md#nowhere"))
        self.assertIn("outside", problem_of_link(page, "../"))
        self.assertIsNone(problem_of_link(page, "docs/choosing.md#without-training"))

    def test_code_and_tables_are_no_prose(self):
        page = unittest.mock.Mock()
        page.read_text.return_value = "a\n```\ncode\n```\n| table |\n    code\nb"
        self.assertEqual(list(prose(page)), [(1, "a"), (2, ""), (3, ""), (4, ""), (7, "b")])

    def test_paths_of_a_machine_are_seen_and_links_are_not(self):
        for text in ("see /home/me/x", "`/tmp/a.tflite`", "node7.internal"):
            self.assertIsNotNone(MACHINE.search(text), text)
        for text in ("https://example.org/home/x", "docs/home/a", "/usr/share/datasets"):
            self.assertIsNone(MACHINE.search(text), text)


if __name__ == "__main__":
    unittest.main()
