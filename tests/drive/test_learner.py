"""Does what a run learned adapt to a task of one's own, as plain torch and in the user's units?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bilevel import Adam, Int, Learned, OneOf, Random, Space, Study, load
from bilevel.drive import results
from bilevel.drive.learner import Learner, predictions
from bilevel.drive.samples import read_samples
from bilevel.episodes import Batch, Episode, Key, Scaling, Split
from bilevel.errors import BadInput, RecordDamaged
from bilevel.inner import GradientDescent
from bilevel.record.folder import RunFolder
from bilevel.study import history as histories
from bilevel.tasks import Sinusoid
from support.tiny import finished, maml, walking


@dataclass(frozen=True)
class Blobs:
    """Three classes in four dimensions."""

    def episode(self, split: Split, key: Key) -> Episode:
        rng = key.child(split).numpy()
        centers, y = rng.standard_normal((3, 4)) * 3, np.arange(12) % 3
        x = torch.from_numpy(centers[y] + rng.standard_normal((12, 4))).float()
        return Episode(Batch(x[:6], torch.from_numpy(y[:6])), Batch(x[6:], torch.from_numpy(y[6:])))


@dataclass(frozen=True)
class Metres(Sinusoid):
    """Labels about 50 that spread by 10; inputs in hundreds."""

    scaling = Scaling((100.0,), (50.0,), 50.0, 10.0)


def normalized(outputs: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, outputs))


def blobs() -> Study:
    return maml(tasks=Blobs(), rule=Space(GradientDescent, init=Learned(normalized, by=Adam(1e-2)), lr=0.5, steps=3))


def learner(store: Path, study: Study) -> Learner:
    return load(finished(store, study).run_id, store=store, study=study)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    return learner(tmp_path_factory.mktemp("classes"), blobs())


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    return learner(tmp_path_factory.mktemp("numbers"), maml())


def task() -> tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]:  # type: ignore[type-arg]
    episode = Blobs().episode("test", Key((5,)))
    return episode.support.x.numpy(), episode.support.y.numpy(), episode.query.x, episode.query.y


# -- adapting ----------------------------------------------------------------------------------------------------------


def test_an_adapted_module_is_plain_torch_in_eval_mode(classes: Learner) -> None:
    x, y, queries, _ = task()
    module = classes.adapt(x, y)
    assert isinstance(module, nn.Sequential)
    assert not module.training
    assert [type(part) for part in module] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert module(queries).shape == (6, 3)
    clone = normalized(3, (4,)).eval()
    clone.load_state_dict(module.state_dict())
    assert torch.equal(clone(queries), module(queries))


def test_one_query_at_a_time_is_all_at_once(classes: Learner) -> None:
    x, y, queries, _ = task()
    module = classes.adapt(x, y)
    with torch.no_grad():
        alone = torch.cat([module(queries[i : i + 1]) for i in range(len(queries))])
        assert torch.allclose(alone, module(queries), rtol=1e-5, atol=1e-6)


def test_adapting_is_pure_and_steps_count(classes: Learner) -> None:
    x, y, queries, _ = task()
    with torch.no_grad():
        first, again, far = (classes.adapt(x, y, steps=steps)(queries) for steps in (3, None, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, far)
    support_x, support_y = torch.from_numpy(x), torch.from_numpy(y)
    before, after = (
        nn.functional.cross_entropy(classes.adapt(x, y, steps=steps)(support_x), support_y).item() for steps in (0, 3)
    )
    assert after < before


def test_lists_and_flat_samples_serve(numbers: Learner) -> None:
    one = numbers.adapt([0.0, 1.0, 2.0], [1, 2, 3])  # whole numbers are numbers here
    two = numbers.adapt(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [2.0], [3.0]]))
    x = torch.tensor([[0.5], [1.5]])
    assert torch.equal(one(x), two(x))


def test_it_works_in_the_users_units(tmp_path: Path) -> None:
    study = maml(tasks=Metres(shots=4, queries=4))
    scaled, plain = learner(tmp_path, study), learner(tmp_path, maml())
    assert scaled.scaling == Metres.scaling
    x, y = np.array([[0.0], [1.0], [-1.0]]), np.array([0.5, -0.5, 1.0])
    ours, theirs = plain.adapt(x, y), scaled.adapt(100 + 50 * x, 50 + 10 * y)
    q = torch.tensor([[0.3], [2.0]])
    assert torch.allclose(theirs(100 + 50 * q), 50 + 10 * ours(q), rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (np.zeros((2, 4)), [0, 3], "labels 0 to 3; the model has classes 0 to 2"),
        (np.zeros((2, 4)), [-1, 0], "labels -1 to 0; the model has classes 0 to 2"),
        (np.zeros((2, 4)), [0.0, 1.5], "the model has classes 0 to 2, one whole number a sample"),
        (np.zeros((2, 4)), [[0], [1]], "labels of shape \\[2, 1\\]"),
        (np.zeros((2, 4)), ["a", "b"], "y holds something else than finite numbers"),
        (np.zeros((2, 4)), [0, 1, 2], "2 samples and 3 labels; each sample has one"),
        (np.zeros((0, 4)), [], "0 samples and 0 labels"),
        (np.zeros((2, 5)), [0, 1], r"a sample is \[5\]; the model takes \[4\]"),
        (np.full((2, 4), np.nan), [0, 1], "x holds something else than finite numbers"),
        (np.array([["a"] * 4] * 2), [0, 1], "x holds something else than finite numbers"),
    ],
)
def test_samples_that_do_not_fit_are_refused(classes: Learner, x: object, y: object, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        classes.adapt(x, y)


def test_labels_of_another_width_are_refused(numbers: Learner) -> None:
    with pytest.raises(BadInput, match="2 numbers per label; the model gives 1"):
        numbers.adapt([0.0, 1.0], [[1.0, 2.0], [3.0, 4.0]])


# -- loading -----------------------------------------------------------------------------------------------------------


def test_the_weights_that_did_best_in_validation_are_loaded(tmp_path: Path) -> None:
    result = finished(tmp_path)
    loaded = load("last", store=tmp_path, study=maml())
    assert loaded.outputs == 1
    assert loaded.shape == (1,)
    again = load(str(result.folder), study=maml())
    for name, tensor in loaded.values["init"].items():
        assert torch.equal(tensor, again.values["init"][name])


def test_a_run_that_learned_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a meta-training; there is nothing to adapt"):
        learner(tmp_path, walking())
    unfinished = finished(tmp_path, maml(), seconds=-1.0)
    with pytest.raises(BadInput, match="no learned model yet; finish it with `bilevel resume"):
        load(unfinished.run_id, store=tmp_path, study=maml())


def test_of_a_search_the_best_trials_weights_are_loaded_with_its_configuration(tmp_path: Path) -> None:
    study = maml().set("rule.steps", Int(1, 3)).set("rule.init.hidden", OneOf((4,), (8,), (12,)))
    study = dataclasses.replace(study, search=Random(), trials=3)
    result = finished(tmp_path, study)
    loaded = load("last", store=tmp_path, study=study)
    config = result.document["best"]["config"]
    assert loaded.plan.rule.steps == config["rule.steps"]
    assert loaded.values["init"]["0.weight"].shape == (config["rule.init.hidden"][0], 1)
    assert loaded.adapt([0.0, 1.0], [0.5, 1.0])(torch.zeros(3, 1)).shape == (3, 1)


def test_a_search_without_weights_has_nothing_to_adapt(tmp_path: Path) -> None:
    study = dataclasses.replace(walking().set("steps", Int(1, 3)), trials=2)
    with pytest.raises(BadInput, match="is not a meta-training; there is nothing to adapt"):
        load(finished(tmp_path, study).run_id, store=tmp_path, study=study)


# -- files -------------------------------------------------------------------------------------------------------------


def test_samples_from_npz_and_csv_are_the_same(tmp_path: Path) -> None:
    x, y = np.array([[1.0, 2.0], [3.0, 4.5]]), np.array([0, 1])
    np.savez(tmp_path / "s.npz", x=x, y=y)
    (tmp_path / "s.csv").write_text("a,b,y\n1,2,0\n3,4.5,1\n")
    (tmp_path / "bare.csv").write_text("1,2,0\n3,4.5,1\n")
    for name in ("s.npz", "s.csv", "bare.csv"):
        read_x, read_y = read_samples(tmp_path / name, labelled=True)
        assert np.array_equal(read_x, x), name
        assert read_y is not None
        assert np.array_equal(read_y, y), name
        assert read_y.dtype.kind == "i"


def test_queries_need_no_labels_and_ignore_those_named_y(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("1,2\n3,4\n")
    (tmp_path / "named.csv").write_text("a,b,y\n1,2,0\n3,4,1\n")
    for name in ("q.csv", "named.csv"):
        x, y = read_samples(tmp_path / name, labelled=False)
        assert x.tolist() == [[1, 2], [3, 4]]
        assert y is None


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("gone.csv", None, "no such file"),
        ("s.txt", "1,2", "give an .npz with x and y, or a .csv"),
        ("s.csv", "a,b,y\n", "no rows"),
        ("s.csv", "a,b,y\n1,x,0\n", "row 2: 'x' is no number"),
        ("s.csv", "1,2,0\n1,0\n", "s.csv"),
        ("s.npz", "noise", "s.npz"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name: str, text: str | None, match: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=match):
        read_samples(tmp_path / name, labelled=True)


def test_an_npz_without_labels_or_with_pickles_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 1)))
    with pytest.raises(BadInput, match="has x; it takes x and y"):
        read_samples(tmp_path / "x.npz", labelled=True)
    np.savez(tmp_path / "o.npz", x=np.array([object()]), y=np.zeros(1))
    with pytest.raises(BadInput, match="pickle"):
        read_samples(tmp_path / "o.npz", labelled=True)


def test_predictions_are_a_class_with_its_odds(classes: Learner) -> None:
    x, y, queries, _ = task()
    module = classes.adapt(x, y)
    header, *rows = predictions(module, queries.numpy(), classes)
    assert header == ["y", "p0", "p1", "p2"]
    for (label, *odds), scores in zip(rows, module(queries), strict=True):
        assert label == int(scores.argmax())
        assert odds == pytest.approx(scores.softmax(0).tolist(), rel=1e-5)


def test_predictions_are_numbers_in_the_users_units(numbers: Learner) -> None:
    module = numbers.adapt([0.0, 1.0], [1.0, 2.0])
    header, *rows = predictions(module, np.array([[0.5], [1.5]]), numbers)
    assert header == ["y"]
    assert rows == module(torch.tensor([[0.5], [1.5]])).tolist()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((2, 5)), r"query: a sample is \[5\]; the model takes \[4\]"),
        (np.zeros((2, 3)), r"query: a sample is \[3\]; the model takes \[4\]"),
        (np.float64(3), "query: x is a single float64"),
        (np.array("text"), "query: .*single"),
        (np.array([["a"] * 4] * 2), r"query: x holds something else than finite numbers \(<U1\)"),
        (np.zeros((2, 4), complex), "query: x holds something else than finite numbers"),
        (np.array([[0.0] * 4, [0.0, np.nan, 0.0, 0.0]]), "nan in sample 1, value 1"),
        (np.full((2, 4), np.inf), "inf in sample 0"),
        (np.full((2, 4), 1e300), "1e.300 in sample 0"),
        ([[0.0] * 4, [0.0] * 3], "query: x is no array"),
    ],
)
def test_a_query_is_checked_as_the_support_is(classes: Learner, x: object, match: str) -> None:
    support, y, _, _ = task()
    module = classes.adapt(support, y)
    with pytest.raises(BadInput, match=match):
        predictions(module, x, classes)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=match.replace("query", "support").replace("x is a single float64", ".*single")):
        classes.adapt(x, np.zeros(2, int))


def test_predictions_that_are_not_finite_are_refused(numbers: Learner) -> None:
    module = numbers.adapt([0.0, 1.0], [1.0, 2.0])
    for parameter in module.parameters():
        parameter.data.fill_(3e38)
    with pytest.raises(BadInput, match=r"the prediction for sample [01] .* is not finite"):
        predictions(module, np.array([[0.0], [5.0]]), numbers)


# -- what was written --------------------------------------------------------------------------------------------------


def test_a_bit_that_flipped_in_the_model_is_found_by_all_that_read_it(tmp_path: Path) -> None:
    result = finished(tmp_path)
    file = result.folder / "model" / "learned.safetensors"
    whole = file.read_bytes()
    folder, history = RunFolder(result.folder), histories.replay(RunFolder(result.folder).events())
    assert results.model_faults(folder, history) == []
    file.write_bytes(whole[:-6] + bytes([whole[-6] ^ 64]) + whole[-5:])
    with pytest.raises(RecordDamaged, match=r"learned.safetensors: it is not what was written .*`show`"):
        load("last", store=tmp_path, study=maml())
    with pytest.raises(BadInput, match="it is not what was written"):
        finished(tmp_path / "next", maml().set("rule.init.start", str(result.folder)))
    assert "not what was written" in results.model_faults(folder, history)[0]
    (result.folder / "model" / "MANIFEST.json").unlink()  # as of an earlier version: the journal knows what was learned
    with pytest.raises(RecordDamaged, match="not what trial 0 learned, as the journal tells"):
        load("last", store=tmp_path, study=maml())
    file.write_bytes(whole)
    assert load("last", store=tmp_path, study=maml()).outputs == 1
