"""The page of `reidlab dashboard`, a script that Streamlit runs for every click and every few seconds by itself."""

import re
import sys
from collections.abc import Sequence
from datetime import datetime
from numbers import Real
from pathlib import Path

import pandas as pd
import streamlit as st

from reidlab.dashboard import folders
from reidlab.dashboard.folders import NOT_SCORED, SPLIT, Snapshot
from reidlab.data.images import MAX_IMAGE_BYTES, decode
from reidlab.errors import InputError
from reidlab.files import read_bytes
from reidlab.run import File, Row

REFRESH_SECONDS = 5
LEADING = ("parity", "choice", "estimates")  # tables that are open
MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")


def plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    return MARKUP.sub(r"\\\1", " ".join(str(text).split()))


@st.fragment(run_every=REFRESH_SECONDS)
def page(root: Path) -> None:
    """All of it: read the folders, then the chosen view."""
    runs = [folders.read_run(folder) for folder in folders.run_folders(root)]
    st.caption(f"{plain(root)} · runs: {len(runs)} · read at {datetime.now():%H\\:%M\\:%S}")
    view = st.segmented_control(
        "View", list(VIEWS), default="Leaderboard", required=True, label_visibility="collapsed", key="view"
    )
    if runs:
        VIEWS[view](runs)
    else:
        st.info("No runs here. `reidlab run experiment=demo` makes one.")


def leaderboard(runs: Sequence[Snapshot]) -> None:
    """The figures of all runs, a table for each test split, then what is broken."""
    every_row = st.toggle("all rows: baselines, other protocols, exported files", key="every_row")
    groups = folders.by_split(folders.leaderboard(runs, every_row), runs)
    splits = [split for split in groups if split != NOT_SCORED]
    chosen = st.selectbox("Test split", [*splits, "all"], key="split") if len(splits) > 1 else "all"
    newest = folders.newest(runs).name
    for split, table in groups.items():
        if chosen in (split, "all") or split == NOT_SCORED:
            st.subheader(plain(split), anchor=False)
            _newest_and_best(table, newest)
            bars = {
                name: st.column_config.ProgressColumn(name, format="%.3f", min_value=0, max_value=1)
                for name in folders.MAIN_FIGURES
                if name in table
            }
            _show(table.drop(columns=SPLIT), bars | {"run": st.column_config.Column(pinned=True)})
    st.caption(
        "Best first, with 95 % intervals over the identities or images of the test split. Figures of different test "
        "splits or protocols can't be compared; runs of earlier releases didn't record a digest of theirs."
    )
    for run in runs:
        _stale(run)
        for problem in run.problems:
            st.warning(f"{plain(run.name)}: {plain(problem)}")


def _newest_and_best(table: pd.DataFrame, newest: str) -> None:
    """The main figure of the best row, and of the newest run where it is in the table."""
    main = next((name for name in folders.MAIN_FIGURES if name in table and table[name].notna().any()), None)
    if main is None:
        return
    best = table.iloc[0]
    shown = [("best", best), *(("newest", row) for _, row in table[table["run"] == newest].head(1).iterrows())]
    for column, (word, row) in zip(st.columns(2), shown, strict=False):
        behind = f"{row[main] - best[main]:+.3f}" if row[main] < best[main] else None
        value = "–" if pd.isna(row[main]) else f"{row[main]:.3f}"
        column.metric(f"{word} {main}: {plain(row['run'])}", value, behind)


def curves(runs: Sequence[Snapshot]) -> None:
    """Every logged figure over the epochs, a line a run."""
    trained = [run for run in runs if not run.history.empty]
    if not trained:
        st.info("No epoch has ended yet.")
        return
    names = [run.name for run in trained]
    chosen = st.multiselect("Runs", names, default=folders.newest_and_best(trained, File.HISTORY), key="curves")
    shown = [run for run in trained if run.name in chosen]
    st.caption(plain(" · ".join(f"{run.name}: {run.history['epoch'].max():.0f} epochs" for run in shown)))
    _charts(shown)


def evaluation(runs: Sequence[Snapshot]) -> None:
    """The pictures and tables of an evaluation: rankings, thresholds, confusions."""
    searches = [run for run in runs if run.is_search]
    evaluated = [run for run in runs if run.evaluated()]
    run = _choose("Run", [*evaluated, *searches], "evaluation")
    if run is None:
        st.info("No run is evaluated yet: `reidlab evaluate run.name=NAME`")
        return
    if run in searches:
        _folder(run.folder)
        return
    row = st.selectbox("Network or protocol", run.evaluated(), key="row")
    _stale(run, row)
    _folder(run.folder / File.EVALUATE / row)


def devices(runs: Sequence[Snapshot]) -> None:
    """Accuracy of the quantized files, and memory and time on devices."""
    made = [run for run in runs if any((run.folder / place).is_dir() for place in (File.QUANTIZE, File.DEPLOY))]
    run = _choose("Run", made, "devices")
    if run is None:
        st.info("No run is quantized or deployed yet: `reidlab quantize run.name=NAME`, `reidlab deploy run.name=NAME`")
        return
    _stale(run)
    places = [run.folder / File.QUANTIZE, *sorted({f.parent for f in (run.folder / File.DEPLOY).rglob("*.csv")})]
    for place in places:
        if any(place.glob("*.csv")):
            st.subheader(plain(place.relative_to(run.folder).as_posix()), anchor=False)
            _folder(place)


def compare(runs: Sequence[Snapshot]) -> None:
    """Two runs beside each other: figures, curves, config, rankings."""
    left, right = st.columns(2)
    best = folders.newest_and_best(runs)[-1]
    with left:
        first = _choose("First", runs, "first", best)
    with right:
        second = _choose("Second", [run for run in runs if run is not first], "second")
    if first is None or second is None:
        st.info("There is one run only.")
        return
    figures, changed = folders.compare(first, second)
    names = {"first": first.name, "second": second.name}
    st.subheader("Figures", anchor=False)
    _show(figures, dict(names))
    if not (figures["protocols"] == "same").all():
        st.warning("Rows whose protocols differ or aren't recorded may not be compared.")
    for one, other in ((first, second), (second, first)):
        if (paired := folders.paired(one, other)) is not None:
            st.caption(plain(f"{one.name} minus {other.name}, paired over test identities"))
            _show(paired)
    st.caption("Is a difference more than chance? `reidlab evaluate run.name=FIRST --against SECOND`")
    st.subheader("Config", anchor=False)
    if changed.empty:
        st.caption("No setting differs.")
    else:
        _show(changed, dict(names))
    if not (first.history.empty and second.history.empty):
        st.subheader("Curves", anchor=False)
        _charts([first, second])
    for name in folders.FIRST_PICTURES:
        for column, run in zip(st.columns(2), (first, second), strict=True):
            with column:
                _picture(run.folder / File.EVALUATE / Row.CHECKPOINT / f"{name}.png")


VIEWS = {
    "Leaderboard": leaderboard,
    "Curves": curves,
    "Evaluation": evaluation,
    "Devices": devices,
    "Compare": compare,
}


def _choose(label: str, runs: Sequence[Snapshot], key: str, first: str | None = None) -> Snapshot | None:
    """One of some runs, at first the named or the newest one; None where there are none."""
    found = {run.name: run for run in runs}
    if not found:
        return None
    if st.session_state.get(key) not in found:
        st.session_state[key] = first or folders.newest(runs).name
    return found[st.selectbox(label, list(found), key=key)]


def _stale(run: Snapshot, row: str = "") -> None:
    """A warning where the row, or any, was made by a checkpoint or of a file that is no longer there."""
    rows = [stale for stale in run.stale if row in (stale, "")]
    if rows:
        st.warning(plain(f"{run.name}: of another checkpoint or file, which is no longer there: {', '.join(rows)}"))


def _charts(runs: Sequence[Snapshot]) -> None:
    """A chart a figure, three beside each other, with a legend if there is more than one run."""
    columns, color = st.columns(3), "run" if len(runs) > 1 else None
    for number, (name, table) in enumerate(folders.curves(runs).items()):
        with columns[number % 3]:
            st.caption(plain(name))
            st.line_chart(table, x="epoch", y="value", color=color, y_label="", height=240)


def _folder(place: Path) -> None:
    """The leading tables of a folder, all pictures, each with the table of its name, then the other tables."""
    pictures, tables = folders.pictures(place), sorted(place.glob("*.csv"))
    for file in (file for file in tables if file.stem in LEADING):
        _table(file)
    left = [file for file in tables if file.stem not in LEADING]
    for picture in pictures:
        _picture(picture)
        if (twin := picture.with_suffix(".csv")) in left:
            left.remove(twin)
            with st.expander(f"{plain(picture.stem)} as a table"):
                _table(twin)
    for file in left:
        with st.expander(plain(file.stem)):
            _table(file)
    if not pictures and not tables:
        st.info("Nothing is drawn here yet.")


def _table(file: Path) -> None:
    table = folders.table(file)
    if table is None:
        st.warning(f"{plain(file.name)}: not readable as a table")
    else:
        _show(table)


def _picture(file: Path) -> None:
    """A PNG file, or a line that says why not."""
    if not file.exists():
        return
    try:
        content = read_bytes(file, MAX_IMAGE_BYTES)
        decode(content, file.name)
    except InputError as error:
        st.warning(plain(error))
    else:
        st.image(content, caption=plain(file.stem))


def _show(table: pd.DataFrame, columns: dict | None = None) -> None:
    """A table without empty columns; a dash stands for what isn't known."""
    shown = table.dropna(axis="columns", how="all")
    for name in shown.columns[shown.isna().any()]:
        if not isinstance((columns or {}).get(name), dict):  # Streamlit shows None for a gap among numbers
            shown = shown.assign(**{name: shown[name].map(_written, na_action="ignore").astype(object).fillna("–")})
    st.dataframe(shown.style.format(_written, na_rep="–"), hide_index=True, column_config=columns)


def _written(value: object) -> str:
    """A cell: fractions with three digits, large numbers by thousands."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, float) and value % 1:
        return f"{value:.3f}" if abs(value) >= 1e-3 else f"{value:.3g}"
    return f"{value:,.0f}"


st.set_page_config(page_title="reidlab", layout="wide")
st.header("reidlab", anchor=False)
page(Path(sys.argv[1]))
