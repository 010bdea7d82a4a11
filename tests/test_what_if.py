"""What pages compute with: the numbers are the model's, and its formula, written out slowly, gives its answers."""

import json

import pytest
import torch
from score_contract import output_of, page_log_probs
from tiny import random_tree, tiny_hipe, tree_score

from explain import pages
from explain.explainer import fingerprint
from explain.what_if import FILE, in_columns, what_if
from hierarchy.tree import Hierarchy
from models.scores import HyperbolicTreeScore


@pytest.mark.parametrize("name", ["tree", "tree_hyperbolic"])
def test_the_formula_gives_the_models_probabilities(name):
    model, tree = tiny_hipe(score=name)
    activations = torch.rand(len(model.prototype_layer.node_of), generator=torch.Generator().manual_seed(1))
    data = json.loads(json.dumps(what_if(model, output_of(model, activations), tree, checkpoint="here.pth")))
    assert data["checkpoint"] == "here.pth" and data["n_leaves"] == tree.n_leaves
    assert data["formula"]["name"] == name and data["highest"] == pytest.approx(9.21, abs=0.01)
    assert [one["name"] for one in data["nodes"]] == [tree.full_name(n) for n in range(len(tree))]
    assert [one["parent"] for one in data["nodes"]] == [
        next((m for m in range(len(tree)) if tree.path(m) == tree.path(n)[1:]), None) for n in range(len(tree))]
    stored = torch.tensor([row["activation"] for row in data["prototypes"]], dtype=torch.float32)
    assert torch.equal(stored, activations)
    expected = model.score(activations[None].double())[0][0]
    torch.testing.assert_close(torch.tensor(page_log_probs(data)), expected.float(), rtol=0, atol=2e-6)


def test_a_score_without_a_formula_has_no_such_data():
    model, tree = tiny_hipe()
    assert what_if(model, output_of(model, torch.rand(len(model.prototype_layer.node_of))), tree) is None


def test_the_data_of_many_prototypes_stay_small(tmp_path):
    model, _ = tiny_hipe(score="tree")
    tree = random_tree(0, 3, 101)
    rows = [[f"VideoOfSomeClass_{name}" for name in row] for row in tree.rows]
    tree = Hierarchy.from_rows(rows)
    node_of = torch.arange(len(tree)).repeat_interleave(10)
    model.score = tree_score(tree, "tree_hyperbolic")(tree, node_of)
    assert isinstance(model.score, HyperbolicTreeScore) and len(node_of) >= 1020
    model.prototype_layer.node_of = node_of

    class Record:
        video = ["v_ApplyEyeMakeup_g01_c01"] * len(node_of)

    data = what_if(model, output_of(model, torch.rand(len(node_of))), tree, record=Record())
    rows = data["prototypes"]
    assert len(rows) == len(node_of) and rows[0].keys() == {"node", "activation", "weight", "video"}
    columns = in_columns(data)["prototypes"]
    assert [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] == rows
    text = json.dumps(columns, separators=(",", ":"))
    assert len(text) < 60 * len(node_of)


def test_data_cannot_end_their_script(tmp_path):
    model, tree = tiny_hipe(score="tree")
    data = what_if(model, output_of(model, torch.rand(len(model.prototype_layer.node_of))), tree)
    data["nodes"][0]["name"] = "</script><script>hit = 1</script><!--"
    pages.write_what_if(tmp_path, data)
    asked = pages.what_if_data(tmp_path)
    assert "<" not in asked["data"] and json.loads(asked["data"])["nodes"] == data["nodes"]
    pages.write_what_if(tmp_path, None)
    assert not (tmp_path / FILE).exists() and pages.what_if_data(tmp_path) is None
    assert len(fingerprint(model)) == 8
