"""Attention rollout is the product of the published matrices, and finds what a transformer's attention leads to."""

import pytest
import torch
from hub import FAMILIES, library_network
from torch import Tensor, nn
from trunks import clips, small

from attribution import METHODS
from explain.heat import heat_of
from models import TRUNKS, attention
from models.attention import Attended
from models.geometry import cell_centre

SIZE = (8, 32, 32)


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch):
    """So that attention is gone through in several steps."""
    monkeypatch.setattr(attention, "NUMBERS", 500)


def test_weights_go_back_through_the_mean_of_the_heads():
    torch.manual_seed(0)
    query, key, weights = torch.randn(3, 2, 7, 4), torch.randn(3, 2, 7, 4), torch.rand(3, 7)
    expected = torch.zeros(3, 7)
    for s in range(3):
        for n in range(7):
            for head in range(2):
                expected[s] += weights[s, n] * (key[s, head] @ query[s, head, n] * 0.7).softmax(0) / 2
    torch.testing.assert_close(Attended(query, key, 0.7).back(weights), expected)


def attentions(network: nn.Module, clip: Tensor) -> list[Tensor]:
    """The library's own attention of every layer, (N, N) means over the heads."""
    network.config._attn_implementation = "eager"
    more = {"skip_predictor": True} if hasattr(network, "predictor") else {}
    with torch.no_grad():
        output = network(clip[None].transpose(1, 2), output_attentions=True, **more)
    return [layer[0].mean(0) for layer in output.attentions]


def trunk_of(name: str, network: nn.Module):
    trunk = small(name)
    state = network.state_dict()
    before = "encoder." if name == "vjepa2" else ""
    trunk.load_state_dict({key.removeprefix(before): value for key, value in state.items()
                           if not key.startswith(("pooler.", "predictor."))})
    return trunk


def head_of(trunk, reads_class: bool):
    """A score: a random direction of the class token, or of the mean over cells."""
    direction = torch.randn(trunk.out_channels, generator=torch.Generator().manual_seed(5))
    if reads_class:
        return lambda some: trunk.class_token(some) @ direction
    return lambda some: trunk(some).mean((2, 3, 4)) @ direction


@pytest.mark.parametrize(("name", "kind", "reads_class"), [
    ("videomae", "VideoMAEModel", False), ("vjepa2", "VJEPA2Model", False), ("vivit", "VivitModel", True),
    ("vivit", "VivitModel", False)])
def test_rollout_is_the_published_product_of_the_librarys_attention(name, kind, reads_class):
    network = library_network(name, kind=kind)
    trunk, clip = trunk_of(name, network), clips(1, SIZE)[0]
    first = trunk.class_tokens
    product = torch.eye(64 + first)
    for layer in attentions(network, clip):
        product = (0.3 * torch.eye(64 + first) + 0.7 * layer) @ product
    expected = product[0, first:] if reads_class else product[first:, first:].mean(0)
    found = METHODS["rollout"](head_of(trunk, reads_class), clip, layer=trunk, upsample=lambda cells: cells,
                               residual=0.3)
    torch.testing.assert_close(found, expected.view(4, 4, 4), atol=1e-6, rtol=1e-4)


def softmaxed(layer, tokens: Tensor) -> Tensor:
    """(N, N) attention of a layer of TimeSformer over some tokens (N, C), heads averaged, in loops over heads."""
    query, key, _ = layer.qkv(tokens).view(len(tokens), 3, layer.num_heads, -1).unbind(1)
    heads = [(query[:, h] @ key[:, h].T * layer.scale).softmax(-1) for h in range(layer.num_heads)]
    return sum(heads) / len(heads)


@torch.no_grad()
@pytest.mark.parametrize("reads_class", [True, False])
def test_rollout_of_divided_attention(reads_class):
    """As whole matrices over all tokens: in time a place attends to its frames; in space a frame to its places and the
    class token, which gets the mean of what it finds in the frames."""
    network = library_network("timesformer", kind="TimesformerModel")
    trunk, clip = trunk_of("timesformer", network), clips(1, SIZE)[0]
    t, places, n = 8, 16, 129
    hidden = []
    for block in trunk.encoder.layer:
        block.register_forward_pre_hook(lambda _, given: hidden.append(given[0][0]))
    after = []
    for block in trunk.encoder.layer:
        block.layernorm_before.register_forward_hook(lambda _, __, output: after.append(output))
    trunk(clip[None])
    product = torch.eye(n)
    for block, tokens, spaces in zip(trunk.encoder.layer, hidden, after, strict=True):
        time, space = torch.zeros(n, n), torch.zeros(n, n)
        time[0, 0] = 1
        for place in range(places):
            rows = [1 + place * t + frame for frame in range(t)]
            mixed = softmaxed(block.temporal_attention.attention, block.temporal_layernorm(tokens[rows]))
            for i in range(t):
                time[rows[i], rows] = mixed[i]
        for frame in range(t):
            rows = [0, *(1 + place * t + frame for place in range(places))]
            mixed = softmaxed(block.attention.attention, spaces[frame])
            space[0, rows] += mixed[0] / t
            for i in range(1, len(rows)):
                space[rows[i], rows] = mixed[i]
        for layer in (time, space):
            torch.testing.assert_close(layer.sum(1), torch.ones(n))
            product = 0.5 * (torch.eye(n) + layer) @ product
    expected = product[0, 1:] if reads_class else product[1:, 1:].mean(0)
    found = METHODS["rollout"](head_of(trunk, reads_class), clip, layer=trunk, upsample=lambda cells: cells)
    torch.testing.assert_close(found, expected.view(4, 4, 8).permute(2, 0, 1), atol=1e-6, rtol=1e-4)


# --- a planted pattern

WHERE = (2, 1, 3)  # frame, row and column in patches of the tiny networks


@torch.no_grad()
def planted(name: str):
    """A transformer of one block and one head in which what is bright is attended to: channel 0 of a patch is its
    brightness, by which channel 3 of keys is large, which is what all queries ask for (rotary positions hardly turn
    it); values carry it into channel 2."""
    config = TRUNKS[name].small["config"].replace('"num_hidden_layers":2', '"num_hidden_layers":1').replace(
        '"num_attention_heads":2', '"num_attention_heads":1')
    trunk = TRUNKS[name](config=config).eval()
    for parameter in trunk.parameters():
        parameter.mul_(1e-3)
    for module in trunk.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
    trunk._projection().weight[0] = 4 / trunk._projection().weight[0].numel()
    width = trunk.out_channels
    for layer in trunk.modules():
        if hasattr(layer, "qkv"):
            query, key, value = layer.qkv.weight.view(3, width, width)
            biases = layer.qkv.bias.view(3, width)[0]
        elif any(hasattr(layer, part) for part in ("q_proj", "query")):
            layers = [getattr(layer, f"{part[0]}_proj", None) or getattr(layer, part)
                      for part in ("query", "key", "value")]
            query, key, value = (part.weight for part in layers)
            biases = layers[0].bias
        else:
            continue
        biases[3] += 10.0
        key[3, 0] += 3.0
        value[2, 0] += 1.0
    return trunk


@pytest.mark.parametrize("name", FAMILIES)
def test_grad_cam_and_rollout_find_the_token_that_decides(name):
    trunk = planted(name)
    t, h, w = trunk.stride
    clip = torch.zeros(3, *SIZE) + 0.05 * torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    frame = WHERE[0] * t
    clip[:, frame:frame + t, WHERE[1] * h:(WHERE[1] + 1) * h, WHERE[2] * w:(WHERE[2] + 1) * w] += 3.0
    centre = cell_centre(torch.tensor(WHERE).new_tensor((WHERE[0] * 4 + WHERE[1]) * 4 + WHERE[2]), (8 // t, 4, 4),
                         trunk.stride, SIZE, trunk.offset).tolist()

    def mean(some):
        return trunk(some).mean((2, 3, 4))[:, 0]

    scores = {"grad_cam": mean, "rollout": mean}
    if trunk.class_tokens:
        scores["rollout"] = lambda some: trunk.class_token(some)[:, 0]
    for method, score in scores.items():
        heat = heat_of(method, score, clip, trunk=trunk)
        assert list(torch.unravel_index(heat.argmax(), SIZE)) == centre, method
        assert heat.min() >= 0 and heat.max() > 1.5 * heat.median(), method
    # of a prototype, which reads one cell
    heat = heat_of("rollout", lambda some: trunk(some)[:, 0].flatten(1).amax(1), clip, trunk=trunk)
    assert list(torch.unravel_index(heat.argmax(), SIZE)) == centre


# --- the contract


def test_attention_in_time_of_a_single_frame_passes_everything_on():
    trunk, clip = small("timesformer"), clips(1, (1, 32, 32))[0]
    with trunk.attention() as seen:
        trunk(clip[None])
    weights = torch.rand(17)
    for carry in seen.layers()[::2]:
        torch.testing.assert_close(carry(weights), weights)
    heat = METHODS["rollout"](head_of(trunk, True), clip, layer=trunk, upsample=lambda cells: cells)
    assert heat.shape == (1, 4, 4) and heat.min() >= 0 and 0 < heat.sum() < 1


def test_trunks_without_attention_and_scores_that_run_one_twice():
    conv, clip = nn.Conv3d(3, 4, 3), clips(1, SIZE)[0]
    with pytest.raises(ValueError, match="rollout needs a transformer"):
        METHODS["rollout"](lambda some: conv(some).sum((1, 2, 3, 4)), clip, layer=conv)
    trunk = small("vivit")
    with pytest.raises(ValueError, match="ran 2 times"):
        METHODS["rollout"](lambda some: (trunk(some) + trunk(some)).sum((1, 2, 3, 4)), clip, layer=trunk)
    assert trunk.watch is None  # nor is anything kept once it is over
    assert not [module for module in trunk.modules() if getattr(module, "watch", None) is not None]


@pytest.mark.parametrize("name", FAMILIES)
def test_rollout_keeps_the_contract(name):
    trunk, passes = small(name).requires_grad_(False), []

    def score(some):
        passes.append(len(some))
        return trunk(some).mean((2, 3, 4))[:, 0]

    heat = METHODS["rollout"](score, clips(1, (6, 40, 24))[0], layer=trunk)
    assert heat.shape == (6, 40, 24) and heat.min() >= 0 and heat.isfinite().all() and not heat.requires_grad
    assert passes == [1] == [METHODS["rollout"].passes({}).forward]
    flat = METHODS["rollout"](lambda some: 0 * trunk(some).sum((1, 2, 3, 4)), clips(1, SIZE)[0], layer=trunk)
    assert flat.max() > 0  # a score that is flat reads all cells alike
