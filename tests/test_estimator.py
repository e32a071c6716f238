"""The scikit-learn classifier: its contract as scikit-learn checks it, and that it is the method it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", minversion="1.6", reason="needs featcache[sklearn]")
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import featcache
from featcache import recipes, registry
from featcache.errors import ConfigError
from featcache.estimator import AdapterClassifier
from featcache.fits import Config, fit
from featcache.heads.files import load_module, save_head
from featcache.importing import import_npz
from featcache.loading import present
from featcache.ops import cosine_logits, normalise
from featcache.training import predict
from tests import synthetic
from tests.recorded import METHODS

ONE_CLASS = "its channels are kept by the text's variance over classes, and one class has none"
EXPECTED = {name: {"check_classifiers_one_label": ONE_CLASS} for name in ("ape", "ape_t")}
"""By method: scikit-learn's checks that are expected to fail, each with its reason."""
QUICK = {"preset": "adamw", "epochs": 5}


@parametrize_with_checks(
    [AdapterClassifier(name, **(QUICK if hasattr(registry.load(name), "init") else {})) for name in METHODS],
    expected_failed_checks=lambda estimator: EXPECTED.get(estimator.adapter, {}),
)
def test_sklearn_contract(estimator, check) -> None:
    check(estimator)


@pytest.fixture
def toy(home: Path, tmp_path: Path) -> featcache.FeatureStore:
    import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy")
    return featcache.open("toy")


@pytest.mark.parametrize("adapter", METHODS)
def test_it_is_the_method_it_names(toy: featcache.FeatureStore, adapter: str) -> None:
    image, label = toy.task(shots=4, seed=1).arrays()
    text = toy.text_weights()
    options = {"preset": "adamw", "epochs": 3, "lr": 0.01} if hasattr(registry.load(adapter), "init") else {}
    model = AdapterClassifier(adapter, text=text, logit_scale=40, init_seed=3, **options).fit(image, label)
    task = synthetic.Task(
        text=torch.from_numpy(text),
        logit_scale=40.0,
        names=toy.classes,
        image=torch.from_numpy(image)[:, None],
        label=torch.from_numpy(label),
    )
    kind = registry.load(adapter)
    recipe = recipes.replace(recipes.make("adamw", shots=4, dataset=""), epochs=3, lr=0.01)
    task = present(task, kind.views)
    (made,) = fit([Config(kind())], [task], [3], recipe, lambda *_: None)
    test, _ = toy.arrays("test")
    expected = predict(kind(), made.params, torch.from_numpy(test), task).numpy()
    np.testing.assert_allclose(model.decision_function(test), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model.predict_proba(test).sum(axis=1), 1)


def test_without_text_the_class_means_are_the_zero_shot_weights(toy: featcache.FeatureStore) -> None:
    image, label = toy.task(shots=4, seed=1).arrays()
    test, _ = toy.arrays("test")
    unit = normalise(torch.from_numpy(image))
    means = normalise(torch.stack([unit[label == index].mean(dim=0) for index in range(6)]))
    model = AdapterClassifier("zero_shot").fit(image, label)
    expected = cosine_logits(torch.from_numpy(test), means, 100.0).numpy()
    np.testing.assert_allclose(model.decision_function(test), expected, rtol=1e-4, atol=1e-4)
    unmoved = AdapterClassifier("clip_adapter", config={"alpha": 0.0}).fit(image, label)
    np.testing.assert_allclose(unmoved.decision_function(test), expected, rtol=1e-4, atol=1e-4)
    assert (
        model.predict(test) != AdapterClassifier("zero_shot", text=toy.text_weights()).fit(image, label).predict(test)
    ).any()


def test_it_works_with_the_rest_of_sklearn(toy: featcache.FeatureStore, tmp_path: Path) -> None:
    image, label = toy.task(shots=8, seed=1).arrays()
    names = np.array(toy.classes)[label]
    search = GridSearchCV(
        AdapterClassifier("gda"), {"config": [{"alpha": 0.1}, {"alpha": 1.0}], "logit_scale": [10, 100]}, cv=2
    )
    search.fit(image, names)
    assert set(search.predict(image)) <= set(toy.classes)
    scores = cross_val_score(make_pipeline(FunctionTransformer(), AdapterClassifier("proker")), image, names, cv=2)
    assert scores.mean() > 0.3
    model = search.best_estimator_
    save_head(tmp_path / "head.safetensors", model.head_)
    loaded = load_module(tmp_path / "head.safetensors")
    assert loaded.classes == toy.classes
    said = loaded(torch.from_numpy(image)).argmax(dim=1).numpy()
    assert (np.array(loaded.classes)[said] == model.predict(image)).all()


def test_what_cannot_be_is_told(toy: featcache.FeatureStore) -> None:
    image, label = toy.task(shots=4, seed=1).arrays()
    with pytest.raises(ConfigError, match=r"text has the shape \(2, 24\); 6 classes"):
        AdapterClassifier("zero_shot", text=np.ones((2, 24))).fit(image, label)
    with pytest.raises(ConfigError, match="learns through a text tower"):
        AdapterClassifier("coop").fit(image, label)
    with pytest.raises(ConfigError, match="does not take config"):
        AdapterClassifier("zero_shot", config={"alpha": 1}).fit(image, label)
