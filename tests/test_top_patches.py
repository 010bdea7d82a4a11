"""Training patches nearest to a prototype: equal to slow loops, drawn, and shown by the report of its prototypes."""

import json
import math

import pytest
import torch
from PIL import Image
from program import ROWS, train, write_data
from tiny import noise_batch, random_tree, small_hipe

from hierarchy.tree import Hierarchy
from models.geometry import upsample
from options.errors import user_errors
from training.features import valid_clips
from training.nearest import child_of, nearest_patches, patch_heats
from util_scripts import top_patches

CPU = torch.device("cpu")
LABELS = [0, 3, 5, 3, 0, 2, 5, 5]


def batches(sizes=(3, 3, 2)):
    made, first = [], 0
    for size in sizes:
        made.append(noise_batch(LABELS[first:first + size], first=first))
        first += size
    return made


@pytest.mark.parametrize("seed", range(2))
def test_nearest_patches_equal_slow_loops(seed):
    tree = random_tree(seed + 4, 3, 7)
    torch.manual_seed(seed)
    model = small_hipe(tree).eval()
    layer, n = model.prototype_layer, 3
    of_all, of_children = nearest_patches(model, batches(), n=n, device=CPU)
    distances, videos = [], []
    for batch in valid_clips(batches(), CPU):
        output = model(batch["clip"])
        distances.append(output.distances)
        videos += batch["video"].tolist()
    distances = torch.cat(distances)

    def expected(p, allowed):
        best = {}
        for i, video in enumerate(videos):
            if allowed(LABELS[i]):
                best[video] = min(best.get(video, math.inf), float(distances[i, p]))
        return sorted((distance, video) for video, distance in best.items())[:n]

    for p, node in enumerate(layer.node_of.tolist()):
        groups = [(of_all, lambda label: True)]
        groups += [(rows, lambda label, child=child: child in tree.path_ids(label))
                   for rows, child in zip(of_children, tree.children(node), strict=False)]
        for rows, allowed in groups:
            wanted = expected(p, allowed)
            near = rows["distance"][p] < torch.inf
            assert rows["video"][p][near].tolist() == [video for _, video in wanted]
            torch.testing.assert_close(rows["distance"][p][near], torch.tensor([value for value, _ in wanted]))
        for rows in of_children[len(tree.children(node)):]:  # children that this node does not have
            assert not (rows["distance"][p] < torch.inf).any()


def test_children_are_counted_in_the_order_of_nodes():
    tree = Hierarchy.from_rows(ROWS)
    node_of = torch.arange(len(tree))
    found = child_of(tree.ancestors, node_of, tree.level_of[node_of])
    for p in range(len(tree)):
        children = list(tree.children(p))
        for leaf in range(tree.n_leaves):
            below = [child for child in children if child in tree.path_ids(leaf)]
            assert found[p, leaf] == (children.index(below[0]) if below else -1)


def test_heat_of_a_patch_is_its_similarity():
    model = small_hipe(random_tree(4, 3, 7)).eval()
    clip = next(iter(valid_clips([noise_batch([0])], CPU)))["clip"][0]
    output, layer = model(clip[None]), model.prototype_layer
    for p, heat in zip((0, 5), patch_heats(model, clip, [0, 5]), strict=True):
        cells = layer.groups(output.features)[0, layer.group_of[p]]
        similar = layer.similarity((cells - layer.points[p][:, None]).square().sum(0))
        assert float(similar.max()) == pytest.approx(float(output.activations[0, p]), abs=1e-5)
        torch.testing.assert_close(heat, upsample(similar.view(output.features.shape[2:]), tuple(clip.shape[1:]),
                                                  tuple(model.trunk.stride), model.offset))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("patches")
    train(write_data(root), root / "results")
    return root


def show(root, *words):
    with user_errors():
        top_patches.main(["--resume_path", str(root / "results" / "save_3.pth"), "--no_cuda", "--n_threads", "0",
                          *map(str, words)])


def test_sheets_and_the_report(run, capsys):
    show(run, "--k", 3)
    folder, results = run / "results" / "top_patches", run / "results"
    entries = json.loads((folder / "top_patches.json").read_text())
    prototypes = json.loads((results / "prototypes.json").read_text())
    assert [entry["prototype"] for entry in entries] == list(range(len(prototypes)))
    for entry, row in zip(entries, prototypes, strict=True):
        assert entry["source"] == row["video"] and 1 <= len(entry["patches"]) <= 3
        distances = [patch["distance"] for patch in entry["patches"]]
        assert distances == sorted(distances) and all(0 <= patch["similarity"] <= 1 for patch in entry["patches"])
        # a prototype is a patch of its own video, which comes nearest
        assert entry["source"] in [patch["video"] for patch in entry["patches"] if patch["distance"] < 1e-4]
        assert set(entry["children"]) == ({"Run", "Jump"} if entry["node"] == "Legs" else
                                          {"Legs", "Arms"} if entry["node"] == "Body" else set(entry["children"]))
        for child, patches in entry["children"].items():
            assert {patch["label"] for patch in patches} <= {row[0] for row in ROWS if child in row}
        with Image.open(folder / entry["sheet"]) as image:
            rows = 1 + sum(bool(patches) for patches in entry["children"].values())
            assert image.size[1] == rows * 116 - 4
    report = (results / "report.html").read_text()
    assert report.count('class="nearest small"') == len(entries) and 'src="top_patches/0000_' in report
    entries[0]["source"] = "another video"  # of an earlier push
    (folder / "top_patches.json").write_text(json.dumps(entries))
    top_patches.write_report(results)
    assert (results / "report.html").read_text().count('class="nearest small"') == len(entries) - 1


@pytest.mark.parametrize(("words", "said"), [
    (["--k", 0], "--k"), (["--resume_path", "nowhere.pth"], "nowhere.pth"), (["--resume_path", "trunk"], "push")])
def test_bad_input_is_one_sentence(run, capsys, words, said):
    words = [str(run / "results" / "trunk.pth") if word == "trunk" else word for word in words]
    with pytest.raises(SystemExit) as stop:
        show(run, *words)
    assert stop.value.code == 2 and said in capsys.readouterr().err
