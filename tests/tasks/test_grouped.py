"""Does a table become one honest task for each group: nothing leaks, nothing is lost, nothing is made up?"""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bilevel.batched import Network
from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.errors import BadInput, MissingData
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.tasks import Grouped

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
PARKINSONS = "parkinsons_telemonitoring/parkinsons_updrs.csv"
SIZES = (4, 5, 6, 7, 8, 9, 9, 9, 9, 2)


def table() -> pd.DataFrame:
    """Ten people with 2 to 9 rows each, mixed; `row` tells rows apart, `day` runs against the table's order."""
    rng = np.random.default_rng(0)
    person = rng.permutation(np.repeat([f"p{i}" for i in range(10)], SIZES))
    rows = np.arange(len(person), dtype=float)
    return pd.DataFrame(
        {
            "person": person,
            "row": rows,
            "day": -rows,
            "note": "text",
            "score": 3.0 * rows + 1.0,
            "ill": np.where(rows % 2 == 0, "yes", "no"),
        }
    )


def tasks(**changed: object) -> Grouped:
    return replace(Grouped(table(), task="person", y="score", support=3), **changed)


def by_group(grouped: Grouped, split: Split) -> dict[str, list[tuple[Key, Episode]]]:
    found: dict[str, list[tuple[Key, Episode]]] = {}
    for i in range(60):
        key = Key((i,))
        name = grouped.groups(split)[grouped.cluster(split, key)]
        found.setdefault(name, []).append((key, grouped.episode(split, key)))
    return found


def rows_of(grouped: Grouped, x: torch.Tensor) -> list[int]:
    """The table's rows, by the feature `row` in the user's units."""
    scaling = grouped.scaling
    return [round(float(value) * scaling.x_std[0] + scaling.x_mean[0]) for value in x[:, 0]]


def test_groups_are_divided_among_splits_and_each_is_tested_in_one_fold() -> None:
    tested: list[str] = []
    for fold in range(5):
        parts = [set(tasks(fold=fold).groups(split).values()) for split in SPLITS]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 9
        assert all(parts)
        tested += parts[2]
    assert sorted(tested) == [f"p{i}" for i in range(9)], "p9 has fewer rows than support and query need"


def test_an_episode_is_of_one_group_its_first_rows_support_all_others_query() -> None:
    frame, grouped = table(), tasks()
    for split in SPLITS:
        for name, drawn in by_group(grouped, split).items():
            mine = frame.index[frame["person"] == name].tolist()
            for _, episode in drawn:
                assert rows_of(grouped, episode.support.x) == mine[:3]
                assert rows_of(grouped, episode.query.x[episode.query.mask]) == mine[3:]
                assert episode.query.mask.shape == (6,)  # the largest group has 9 rows
                assert not episode.query.x[~episode.query.mask].any()
                assert not episode.query.y[~episode.query.mask].any()
                for batch in (episode.support, episode.query):
                    y = grouped.scaling.decode_y(batch.y[:, 0])
                    kept = slice(None) if batch.mask is None else batch.mask
                    assert np.allclose(y[kept], [3.0 * row + 1.0 for row in rows_of(grouped, batch.x[kept])], atol=1e-3)


def test_order_says_which_rows_are_first() -> None:
    frame, grouped = table(), tasks(order="day")
    for name, drawn in by_group(grouped, "train").items():
        mine = frame.index[frame["person"] == name].tolist()[::-1]
        assert rows_of(grouped, drawn[0][1].support.x) == mine[:3]


def test_a_random_support_differs_between_episodes_and_never_meets_its_query() -> None:
    frame, grouped = table(), tasks(choose="random")
    for name, drawn in by_group(grouped, "train").items():
        mine = frame.index[frame["person"] == name].tolist()
        supports = {tuple(rows_of(grouped, episode.support.x)) for _, episode in drawn}
        assert len(supports) > 1
        for _, episode in drawn:
            both = rows_of(grouped, episode.support.x) + rows_of(grouped, episode.query.x[episode.query.mask])
            assert sorted(both) == mine


def test_a_number_of_queries_is_drawn_from_the_rest_and_masked_where_there_are_fewer() -> None:
    grouped, counts = tasks(queries=4), {}
    for split in SPLITS:
        for name, drawn in by_group(grouped, split).items():
            for _, episode in drawn:
                assert episode.query.x.shape == (4, 2)
                rows = rows_of(grouped, episode.query.x[episode.query.mask])
                assert len(set(rows)) == len(rows)
                assert not set(rows) & set(rows_of(grouped, episode.support.x))
            counts[name] = int(drawn[0][1].query.mask.sum())
    assert counts == {f"p{i}": min(size - 3, 4) for i, size in enumerate(SIZES[:9])}


def test_scaling_is_fitted_to_the_training_groups_alone() -> None:
    frame = table()
    for fold in range(5):
        scaling = tasks(fold=fold).scaling
        train = frame[frame["person"].isin(tasks(fold=fold).groups("train").values())]
        assert np.allclose(scaling.x_mean, train[["row", "day"]].mean())
        assert np.allclose(scaling.x_std, train[["row", "day"]].std(ddof=0))
        assert np.isclose(scaling.y_mean, train["score"].mean())
        assert np.isclose(scaling.y_std, train["score"].std(ddof=0))


def test_a_constant_feature_is_harmless() -> None:
    frame = table().assign(day=0.1)
    x = Grouped(frame, task="person", y="score", support=3).episode("test", Key((0,))).support.x
    assert torch.isfinite(x).all()
    assert x[:, 1].abs().max() < 1e-6


def rare_table() -> pd.DataFrame:
    """An indicator that is 1 in 4 rows of 20,000."""
    rng = np.random.default_rng(0)
    group, x = np.repeat(np.arange(200), 100), rng.normal(size=20_000)
    rare = (np.arange(20_000) % 100 == 0) & (group % 50 == 7)
    y = rng.normal(size=200)[group] * x + rng.normal(size=20_000) / 10
    return pd.DataFrame({"group": group, "x": x, "rare": rare.astype(float), "y": y})


def test_a_rare_column_is_named_and_does_not_end_the_inner_loop() -> None:
    """Unbounded it was 77 to 110 standard deviations wide: infinite after five steps."""
    grouped = Grouped(rare_table(), task="group", y="y", support=5, queries=40)
    with pytest.warns(UserWarning, match=r"many standard deviations from the mean.*: 'rare' \(\d\d+\); beyond 5"):
        grouped.check()
    prepared = grouped._prepared
    first = [rows[0] for rows in prepared.rows if prepared.x[rows[0], 1] > 1]
    assert len(first) == 4
    rows = torch.tensor(np.array([np.arange(row, row + 45) for row in first]))
    support, query = (Batch(prepared.x[part], prepared.y[part]) for part in (rows[:, :5], rows[:, 5:]))
    network = Network(mlp(outputs=1, shape=(2,)))
    rule = GradientDescent(init=network, lr=0.1, steps=10)
    for adapted in islice(rule.adapt({"init": network.start()}, support, None), 11):
        assert rule.evaluate(adapted, query, None)[0].max() < 10


def test_features_are_all_numeric_columns_but_the_group_the_answer_and_what_is_dropped() -> None:
    width = {"all": tasks(), "dropped": tasks(drop="day"), "named": tasks(features=("row",))}
    shapes = {name: grouped.episode("test", Key((0,))).support.x.shape[1] for name, grouped in width.items()}
    assert shapes == {"all": 2, "dropped": 1, "named": 1}


def test_classes_are_labelled_in_their_order_and_not_scaled() -> None:
    grouped = tasks(y="ill", classes=("yes", "no"), drop="score")
    assert (grouped.scaling.y_mean, grouped.scaling.y_std) == (0.0, 1.0)
    episode = grouped.episode("test", Key((0,)))
    assert episode.support.y.dtype == episode.query.y.dtype == torch.int64
    assert episode.support.y.tolist() == [row % 2 for row in rows_of(grouped, episode.support.x)]


def test_the_cluster_is_the_group_of_the_episode() -> None:
    grouped = tasks()
    for i in range(20):
        key = Key((i,))
        name = grouped.groups("train")[grouped.cluster("train", key)]
        first = rows_of(grouped, grouped.episode("train", key).support.x)[0]
        assert table()["person"][first] == name


def test_a_csv_file_is_found_below_the_data_folder_and_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    file = tmp_path / "clinic" / "readings.csv"
    file.parent.mkdir()
    table().to_csv(file, index=False)
    from_file, from_frame = tasks(table="clinic/readings.csv"), tasks()
    assert torch.equal(from_file.episode("test", Key((1,))).query.x, from_frame.episode("test", Key((1,))).query.x)
    table().assign(row=0.0).to_csv(file, index=False)
    os.utime(file, ns=(1, 1))
    assert tasks(table="clinic/readings.csv").scaling.x_mean[0] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "patient"}, "task names the column 'patient', which is not there; there are: person, row, day, note"),
        ({"y": "Score"}, "y names the column 'Score', which is not there"),
        ({"order": "time"}, "order names the column 'time'"),
        ({"drop": ("age",)}, "drop names the column 'age'"),
        ({"features": ("row", "age")}, "features names the column 'age'"),
        ({"features": ("row", "note")}, r"column 'note' is not numeric \('text', …\); turn it into numbers"),
        ({"features": ("row", "score")}, "features name 'score', which is the group or the answer; leave it out"),
        ({"features": ("row", "day"), "drop": "day"}, "features and drop both name 'day'; leave it out of one"),
        ({"task": ("person", "row"), "features": "row"}, "features name 'row', which is the group or the answer"),
        ({"y": "ill", "classes": "no"}, r"classes='no' is one text; name the values of 'ill': classes=\('no', 'yes'\)"),
        ({"y": "ill", "classes": ("no", "yes", "no")}, "are not different values of 'ill'; name each of them once"),
        ({"missing": "drop"}, "missing='drop'; give 'fill', 'flag' or 'rows', or leave it out"),
        ({"balanced": True}, "balanced=True is for classes, and y='score' is a regression"),
        (
            {"y": "ill", "classes": ("no", "yes"), "balanced": True},
            "support=3 cannot be balanced over 2 classes; give a",
        ),
        ({"drop": ("row", "day")}, "no numeric column is left to predict from; name some in features"),
        ({"y": "ill"}, r"y='ill' holds no numbers; for classification name them: classes=\('no', 'yes'\)"),
        ({"y": "ill", "classes": ("yes",)}, r"y='ill' holds 'no', not one of classes=\('yes',\); name all"),
        ({"support": 8}, "4 of 10 groups of 'person' have more than support=8 rows, fewer than folds=5; lower support"),
    ],
)
def test_what_does_not_fit_the_table_is_named(changed: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tasks(**changed).check()


@pytest.mark.parametrize("column", ["row", "score", "person"])
def test_missing_values_are_named(column: str) -> None:
    frame = table()
    frame.loc[3, column] = None
    with pytest.raises(
        BadInput, match=f"column '{column}' has 1 missing or infinite values of {len(frame)}; missing='rows'"
    ):
        Grouped(frame, task="person", y="score", support=3).check()


def test_an_infinite_value_is_named() -> None:
    frame = table()
    frame.loc[3, "day"] = np.inf
    with pytest.raises(BadInput, match="column 'day' has 1 missing or infinite"):
        Grouped(frame, task="person", y="score", support=3).check()


def test_no_file_and_no_csv_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    with pytest.raises(MissingData, match=r"no table lost\.csv.*--set tasks\.table=FILE, or set BILEVEL_DATA"):
        tasks(table="lost.csv").check()
    broken = tmp_path / "broken.csv"
    broken.write_bytes(b"")
    with pytest.raises(BadInput, match=r"broken\.csv cannot be read as CSV"):
        tasks(table=str(broken)).check()


@pytest.mark.skipif(
    not (Path(os.environ.get("BILEVEL_DATA", "nowhere")) / PARKINSONS).is_file(),
    reason="needs the Parkinsons telemonitoring data, see README",
)
def test_the_parkinsons_table_gives_a_task_per_patient() -> None:
    grouped = Grouped(PARKINSONS, task="subject#", y="total_UPDRS", drop="motor_UPDRS", order="test_time")
    grouped.check()
    assert sum(len(grouped.groups(split)) for split in SPLITS) == 42
    episode = grouped.episode("test", Key((0,)))
    assert episode.support.x.shape == (5, 19)
    assert episode.query.x.shape == (163, 19)
    frame = pd.read_csv(Path(os.environ["BILEVEL_DATA"]) / PARKINSONS)
    patient = grouped.groups("test")[grouped.cluster("test", Key((0,)))]
    first = frame[frame["subject#"] == patient].sort_values("test_time", kind="stable")["total_UPDRS"].head(5)
    assert np.allclose(grouped.scaling.decode_y(episode.support.y[:, 0]), first, atol=1e-3)


# -- what tables are like ----------------------------------------------------------------------------------------------


def visits(groups: int = 12, each: int = 8) -> pd.DataFrame:
    """People with readings, a town, a device and an answer; all complete."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(groups), each)
    return pd.DataFrame(
        {
            "person": person,
            "x": rng.normal(size=len(person)),
            "z": rng.normal(size=len(person)),
            "town": np.array(["Ulm", "Jena", "Bonn"])[rng.integers(0, 3, len(person))],
            "device": rng.integers(0, 6, len(person)),
            "y": rng.normal(size=len(person)),
        }
    )


def of(frame: pd.DataFrame, **more: object) -> Grouped:
    return Grouped(frame, **{"task": "person", "y": "y", "drop": ("town", "device"), "support": 3, **more})


def test_all_columns_with_missing_values_are_named_at_once() -> None:
    frame = visits()
    frame.loc[[3, 5], "x"] = np.nan
    frame.loc[7, "z"] = np.inf
    with pytest.raises(
        BadInput,
        match=r"column 'x' has 2, column 'z' has 1 missing or infinite .* of 96; .*missing='fill' .*drop=\('x', 'z'\)",
    ):
        of(frame).check()
    frame["person"] = frame["person"].astype(float)
    frame.loc[0, "person"] = np.nan
    with pytest.raises(BadInput) as caught:
        of(frame, features=("x",)).check()
    assert "'person'" in str(caught.value)
    assert "drop=('x',)" in str(caught.value), "dropping the group's column would lead nowhere"


@pytest.mark.parametrize("kind", [None, "Float64"])
def test_missing_values_are_filled_flagged_or_left_out(kind: str | None) -> None:
    frame = visits()
    frame.loc[[3, 5], "x"] = np.nan
    frame = frame if kind is None else frame.astype({"x": kind})
    filled, flagged = of(frame, missing="fill"), of(frame, missing="flag")
    filled.check()
    flagged.check()
    assert (filled.columns, flagged.columns) == (["x", "z"], ["x", "z", "x missing"])
    train = frame[frame["person"].isin(filled.groups("train").values())]
    assert np.isclose(filled.scaling.x_mean[0], train["x"].astype(float).mean())
    assert filled._prepared.x[[3, 5], 0].abs().max() < 1e-6, "the mean of the training groups"
    flags = flagged._prepared.x[:, 2]
    assert set(torch.nonzero(flags == flags.max()).flatten().tolist()) == {3, 5}
    left = of(frame, missing="rows")
    with pytest.warns(UserWarning, match="2 of 96 rows are left out, with missing values in 'x'"):
        left.check()
    assert len(left._prepared.x) == 94


def test_text_columns_are_said_or_become_features() -> None:
    frame = visits()
    silent = of(frame, drop="device")
    with pytest.warns(UserWarning, match="the columns 'town' are no numbers and are left out; name .* categories="):
        silent.check()
    told = of(frame, categories="town", drop="device")
    told.check()
    assert told.columns == ["x", "z", "town=Bonn", "town=Jena", "town=Ulm"]
    raw = told.inputs(frame)
    assert [told.columns[2 + place].removeprefix("town=") for place in raw[:, 2:].argmax(1)] == frame["town"].tolist()
    new = frame.head(2).assign(town="Rome")
    assert not told.inputs(new)[:, 2:].any(), "a value that no training group has"
    assert told.episode("test", Key((0,))).support.x.shape == (3, 5)
    with pytest.raises(
        BadInput, match=r"'x', which has \d\d values in the training groups; up to 50 .*statistics=\('x'"
    ):
        of(visits(groups=16), categories="x").check()


def test_groups_that_are_too_small_are_counted() -> None:
    frame = visits()
    frame = frame[(frame["person"] < 8) | (np.arange(96) % 8 < 2)]
    with pytest.warns(
        UserWarning, match="4 of 12 groups of 'person' are left out: they do not have more than support=3"
    ):
        of(frame).check()


def test_truth_values_are_classes() -> None:
    frame = visits().assign(y=lambda table: table["y"] > 0)
    grouped = of(frame, support=6)
    episode = grouped.episode("train", Key((0,)))
    assert episode.support.y.dtype == torch.int64
    assert grouped.scaling.y_std == 1.0
    assert set(grouped._prepared.y.tolist()) == {0, 1}


def test_two_whole_numbers_as_a_regression_are_said() -> None:
    frame = visits().assign(y=lambda table: (table["y"] > 0).astype(int))
    with pytest.warns(UserWarning, match=r"y='y' has two values and is taken for a regression; classes=\(0, 1\)"):
        of(frame).check()


def test_several_columns_name_a_group() -> None:
    frame = visits()
    frame["site"] = np.where(np.arange(96) % 8 < 4, "a", "b")
    grouped = of(frame, task=("person", "site"), folds=4)
    grouped.check()
    names = [name for split in SPLITS for name in grouped.groups(split).values()]
    assert len(names) == len(set(names)) == 24
    assert (0, "a") in names


@pytest.mark.parametrize("choose", ["first", "random"])
def test_a_balanced_support_has_as_many_of_each_class(choose: str) -> None:
    frame = visits(each=10).assign(y=np.tile([0, 0, 0, 0, 0, 0, 0, 1, 1, 1], 12))
    frame.loc[frame["person"] == 3, "y"] = 0
    unbalanced = of(frame, classes=(0, 1), support=4, choose=choose)
    with pytest.warns(UserWarning, match=r"in 12 of 12 groups the 4 first rows.* of one class.*; balanced=True"):
        unbalanced.check()
    grouped = of(frame, classes=(0, 1), support=4, choose=choose, balanced=True)
    with pytest.warns(UserWarning, match=r"1 of 12 groups .*more than support=4 rows, 2 or more of each class"):
        grouped.check()
    for i in range(20):
        episode = grouped.episode("train", Key((i,)))
        assert torch.bincount(episode.support.y).tolist() == [2, 2]
        assert torch.bincount(episode.query.y[episode.query.mask]).tolist() == [5, 1]


def test_statistics_of_an_item_come_from_other_training_groups() -> None:
    frame = visits()
    grouped = of(frame, statistics="device", drop="town", features="x")
    assert grouped.columns == ["x", "device: mean of y", "device: log rows"]
    training = frame["person"].isin(grouped.groups("train").values())
    mean = frame["y"][training].mean()
    prepared, scaling = grouped._prepared, grouped.scaling
    raw = prepared.x.double().numpy() * np.array(scaling.x_std) + np.array(scaling.x_mean)
    for row in (0, 17, 50, 95):
        others = training & (frame["device"] == frame["device"][row]) & (frame["person"] != frame["person"][row])
        y = frame["y"][others]
        assert raw[row, 1] == pytest.approx((y.sum() + 5 * mean) / (len(y) + 5), abs=1e-4)
        assert raw[row, 2] == pytest.approx(np.log1p(len(y)), abs=1e-4)
    unseen = frame.head(1).assign(device=99)
    assert grouped.inputs(unseen)[0, 1:] == pytest.approx([mean, 0.0])


def test_one_test_group_is_said() -> None:
    frame = visits(groups=3)
    with pytest.warns(UserWarning, match="valid and test have one group, which gives no interval; give fewer folds"):
        of(frame, folds=3).check()


def test_two_columns_of_one_name_are_refused() -> None:
    frame = visits()
    frame.columns = ["person", "x", "x", "town", "device", "y"]
    with pytest.raises(BadInput, match="two columns are called 'x'; rename or leave out one of them"):
        of(frame).check()
