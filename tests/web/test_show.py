"""How the page shows numbers, times, JSON, tracebacks and plots."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisjobs.web.rendering import with_commands
from redisjobs.web.show.format import ago, clock, cut, duration, json_lines, short
from redisjobs.web.show.plots import PlotLine, Scale, nice, plot, sparkline
from redisjobs.web.show.traces import read_trace

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.25, "0.25"),
        (950, "950"),
        (999.6, "1k"),
        (1234, "1.23k"),
        (761_234, "761k"),
        (18.4e6, "18.4M"),
    ],
)
def test_a_short_number_has_three_digits(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.084, "84 ms"), (2.2, "2.2 s"), (720, "12 min"), (9000, "2.5 h"), (260_000, "3 days")],
)
def test_a_duration_has_the_unit_that_fits(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_time_is_a_distance_and_a_clock_that_differs_by_little_does_not_show() -> None:
    assert ago(NOW - timedelta(minutes=4), NOW) == "4 min ago"
    assert ago(NOW + timedelta(seconds=20), NOW) == "in 20 s"
    assert ago(NOW + timedelta(seconds=0.4), NOW) == "just now"
    assert [clock(NOW, NOW), clock(NOW - timedelta(days=2), NOW), clock(NOW - timedelta(days=800), NOW)] == [
        "12:00:00",
        "24 Nov 12:00",
        "2024-09-17 12:00",
    ]


def test_json_is_indented_and_no_number_changes() -> None:
    text = '{"id":90071992547409931123456789,"x":1.10,"e":[],"o":{},"l":[1e400,{"a":"b, c: {\\"}"}]}'

    shown = json_lines(text)

    assert "".join(shown.split()) == "".join(text.split())
    assert shown.splitlines()[:3] == ["{", '  "id": 90071992547409931123456789,', '  "x": 1.10,']


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_indented_json_has_the_same_value(value: object) -> None:
    assert json.loads(json_lines(json.dumps(value))) == value


@given(st.text())
def test_any_text_is_shown_even_if_it_is_no_json(text: str) -> None:
    assert isinstance(json_lines(text), str)
    assert json_lines("[" * 5000 + text).count(" ") < 1_000_000


@pytest.mark.parametrize("text", ["not json {", '{"a" "b"}', "[1 2]", '{"a": ', "]["])
def test_text_that_is_no_json_is_shown_as_it_is(text: str) -> None:
    assert json_lines(text) == text


def test_what_stands_between_backticks_is_code_and_all_is_escaped() -> None:
    assert with_commands("a <b> `c <d>` e") == "a &lt;b&gt; <code>c &lt;d&gt;</code> e"
    assert with_commands("`a < b") == "`a &lt; b"


def test_cut_text_is_one_line_without_control_characters() -> None:
    assert cut("a\nb\x1b[31m" + "x" * 100, 20) == "a\\nb\\x1b[31m" + "x" * 7 + "…"


TRACE = """Traceback (most recent call last):
  File "/usr/lib/python3.11/asyncio/tasks.py", line 267, in __step
    result = coro.send(None)
  File "/srv/app/billing/jobs.py", line 31, in send_invoice
    render(parameters)
  File "/srv/app/.venv/lib/python3.11/site-packages/jinja2/environment.py", line 1301, in render
    self.environment.handle_exception()
    ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~^^
  File "/srv/app/billing/totals.py", line 41, in totals
    return data["currency"]
KeyError: 'currency'
"""


def test_a_traceback_has_the_own_frames_first_the_innermost_before_all() -> None:
    trace = read_trace(TRACE)

    assert [(frame.place, frame.function, frame.code) for frame in trace.own] == [
        ("billing/totals.py:41", "totals", 'return data["currency"]'),
        ("billing/jobs.py:31", "send_invoice", "render(parameters)"),
    ]
    assert (trace.others, trace.text) == (2, TRACE)


def test_a_traceback_of_libraries_alone_shows_them() -> None:
    lines = TRACE.splitlines(keepends=True)

    assert [frame.function for frame in read_trace("".join(lines[:3])).own] == ["__step"]
    assert read_trace("no traceback").own == []


@pytest.mark.parametrize(
    ("value", "top"), [(0, 3), (0.7, 0.9), (1, 1.2), (1.2, 1.2), (42, 45), (91, 120), (301, 360)]
)
def test_the_top_of_a_plot_is_a_round_number(value: float, top: float) -> None:
    assert nice(value) == pytest.approx(top)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([], [0.001, 10**-2.5, 0.01]),
        ([0.03, 0.09], [0.01, 10**-1.5, 0.1]),
        ([0.005, 0.7], [0.001, 0.01, 0.1, 1]),
        ([0.0000001, 86_400], [0.001, 0.1, 10, 1000, 100_000]),
    ],
)
def test_a_logarithmic_scale_has_lines_in_equal_distances(values: list[float], levels: list[float]) -> None:
    scale = Scale.log(values)

    assert scale.levels == pytest.approx(levels)
    assert [scale.at(level) for level in scale.levels] == pytest.approx(
        [line / (len(levels) - 1) for line in range(len(levels))]
    )
    assert (scale.at(0), scale.at(float("1e300"))) == (0, 1)


def test_a_plot_has_lines_with_gaps_axes_and_readings() -> None:
    series = [PlotLine("done", "done", [0, 10, None, 30]), PlotLine("dead", "dead", [None, None, None, 3])]

    drawn = str(plot(series, NOW, 60, lambda value: f"{value:g}/s", "Jobs <a second>"))

    assert 'aria-label="Jobs &lt;a second&gt;"' in drawn
    assert "<span>30/s</span>" in drawn
    assert "<span>12:00</span>" in drawn
    assert "<span>12:03</span>" in drawn
    assert drawn.count('class="stroke"') == 3  # two stretches of one, and one of the other
    assert "<title>12:02: nothing recorded</title>" in drawn
    assert "<title>12:03: done 30/s, dead 3/s</title>" in drawn
    assert "style=" not in drawn


def test_a_long_plot_tells_the_highest_of_several_values_and_the_day() -> None:
    values = [0.0] * 432
    values[200] = 5

    drawn = str(plot([PlotLine("dead", "dead", values)], NOW, 600, str, "a"))

    assert drawn.count("<title>") == 108
    assert "dead 5" in drawn
    assert f"<span>{NOW:%a %H:%M}</span>" in drawn


@pytest.mark.parametrize("values", [[], [None], [0.0], [float("nan"), float("inf"), 1e300]])
def test_a_plot_of_little_is_drawn_too(values: list[float | None]) -> None:
    assert "nan" not in str(plot([PlotLine("a", "done", values)], NOW, 60, str, "a")).split("<title>")[0]
    assert "<svg" in sparkline(values, "dead", "a")
