import re

import numpy as np
import pytest
from diagnosis_pages import labels_of
from diagnosis_values import LOSSES, MINIMAL, RISE, client_log, round_log

from tasks.diagnose.report.maps import draw_maps, drawn_size
from tasks.diagnose.report.page import to_html
from tasks.diagnose.report.svg import style, to_svg
from tasks.round_log.read import ClientLog


@pytest.mark.parametrize("drop", [("update_norm",), ("update_norm", "update_cosine_robust"), ("loss_before",)])
def test_map_is_drawn_of_the_signals_that_there_are(drop: tuple[str, ...]) -> None:
    log = client_log(["03", "00"], 6, drop)
    with style():
        drawn = draw_maps(log, RISE, ["03"])
    assert len(drawn) == min(2, 3 - len(drop))
    nothing = ClientLog(log.rounds, log.clients, {"loss_after": np.ones(12)}, log.failed, log.failed)
    assert "neither updates nor losses" in to_html(MINIMAL, round_log(LOSSES[:6]), nothing, None)


def test_named_clients_are_the_first_rows_of_a_map_and_bold() -> None:
    clients = [f"{k:03d}" for k in range(200)]
    log = client_log([clients[150], *clients[:150], *clients[151:]], 4, failed=0)
    with style():
        drawn = draw_maps(log, RISE, ["150", "007", "unknown"])
        svg = to_svg(drawn[0].figure, "map", "a map")
    assert drawn_size(log) == (40, 200, 1)
    # Above the clients stand quantiles over all 200.
    assert labels_of(svg)[:5] == ["all: 95 %", "all: median", "all: 5 %", "150", "007"]
    assert len(labels_of(svg)) == 43
    styles = re.findall(r"<text[^>]*text-anchor: end", svg)[3:6]
    assert [re.search("bold|700", text) is not None for text in styles] == [True, True, False]
