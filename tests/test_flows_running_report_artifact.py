"""The diagnosis as Prefect's artifact: its pictures, its tables, and that no text of a client becomes markup."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from flows.running.report_artifact import report
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.report.markdown import to_markdown
from tasks.diagnose.report.page import to_html
from tests.diagnosis_values import HOSTILE, LOSSES, client_log, diagnosis, partition, round_log

CLIENTS = ["03", "00", "01"]


def artifact(folder: Path, answer: Diagnosis, clients: list[str]) -> str:
    page = to_html(answer, round_log(LOSSES), client_log(clients, len(LOSSES)), partition(clients, ["a", "b"]))
    (folder / "diagnosis.html").write_text(page)
    (folder / "diagnosis.md").write_text(to_markdown(answer))
    return report(folder)


def test_the_pictures_of_the_page_are_in_the_artifact_as_whole_svg_files(tmp_path: Path) -> None:
    text = artifact(tmp_path, diagnosis(), CLIENTS)
    page = (tmp_path / "diagnosis.html").read_text()
    sources = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert len(sources) == page.count("<figure>") >= 4
    for source in sources:
        picture = base64.b64decode(source).decode()
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        used = {*re.findall(r"var\((--[a-z]+)\)", picture)}
        assert "--ink" in used
        assert used <= {*re.findall(r"(--[a-z]+): #", picture)}  # the page's colours, which it would not have alone
    # The answer is first, then the loss. A section that both have keeps its text.
    assert text.index("# Why did the loss go up?") < text.index("| When |") < text.index("## The loss")
    (about,) = re.findall(r"## What the clients did\n(.*?)\n## ", text, re.DOTALL)
    assert about.index("<img") < about.index("Client 03 sent updates of length 4.")


def test_a_wide_table_has_all_its_cells_in_html_and_a_narrow_one_stays(tmp_path: Path) -> None:
    text = artifact(tmp_path, diagnosis(), CLIENTS)
    assert "| When | rounds 7 to 12 |" in text  # 15 characters: narrow
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert {"03", "Client 03 sent updates of length 4."} <= {*cells}
    widest = max((line for line in text.splitlines() if line.startswith("|")), key=len)
    assert len(widest) < 80


def test_no_text_of_a_client_becomes_markup(tmp_path: Path) -> None:
    text = artifact(tmp_path, diagnosis(client=HOSTILE), [HOSTILE, "00", "01"])
    blocks = [line for line in text.splitlines() if line.startswith("<")]
    assert not re.findall(r"(?<!\\)<[a-z]", "\n".join(line for line in text.splitlines() if line not in blocks))
    found: set[tuple[str, tuple[str, ...]]] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.add((tag, tuple(name for name, _ in attrs)))  # type: ignore[method-assign]
    parser.feed("\n".join(blocks))
    assert ("img", ("alt", "src")) in found
    cells = {(tag, ("align", "valign")) for tag in ("th", "td")}
    plain = {(tag, ()) for tag in ("p", "strong", "br", "tr")}
    assert found == {("img", ("alt", "src")), ("table", ("cellpadding",)), *cells, *plain}
    assert "alert(1)" in text


def test_without_a_diagnosis_there_is_no_text(tmp_path: Path) -> None:
    assert report(tmp_path) == ""
