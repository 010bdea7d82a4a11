"""What an attribution method declares: its function, the options it takes, and what it needs to know of the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

# what callers know of the model and the score
CONTEXT = ("layer", "upsample", "class_weights", "head_weights", "score", "highest")
FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Option:
    """An option of a method.

    Args:
        type: int, float, str or bool, of one value.
        default: as in the function's signature; None where the function works it out.
        help: what it does, in one line without the default.
        least, most: range of a number, both ends included unless `inside`.
        inside: whether both ends of the range are left out.
        choices: names that a value is one of.
        several: whether the option is a sequence of values.
    """

    type: type
    default: object
    help: str
    least: float | None = None
    most: float | None = None
    inside: bool = False
    choices: Sequence[str] = ()
    several: bool = False

    def parse(self, text: str) -> object:
        """The value that a text stands for; several values are separated by commas.

        Raises:
            ValueError: for another type, a name that is no choice, or a number outside the range.
        """
        if self.several:
            return self.checked(tuple(self._one(part) for part in text.split(",")))
        return self.checked(self._one(text))

    def checked(self, value: object) -> object:
        """The value itself, where it is in the range or among the choices; the default always is.

        Raises:
            ValueError: saying what is allowed.
        """
        for part in value if self.several and value is not None else (value,):
            if value is not None and not self._allowed(part):
                written = f"{part:g}" if isinstance(part, float) else part
                raise ValueError(f"{self.range}, not {written}")
        return value

    @property
    def range(self) -> str:
        """What is allowed, in words: "must be at least 1"."""
        if self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.least is None:
            return "must be any value"
        if self.most is None:
            return f"must be {'more than' if self.inside else 'at least'} {self.least:g}"
        return f"must be between {self.least:g} and {self.most:g}"

    def _allowed(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if self.least is None:
            return True
        below_most = self.most is None or (value < self.most if self.inside else value <= self.most)
        return below_most and (value > self.least if self.inside else value >= self.least)

    def _one(self, text: str) -> object:
        try:
            return FLAGS[text.lower()] if self.type is bool else self.type(text)
        except (ValueError, KeyError) as error:
            kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(self.type, "a name")
            raise ValueError(f"must be {kind}, not {text!r}") from error


@dataclass(frozen=True)
class Passes:
    """How many clips a method sends through the network for one heat map.

    forward: without a gradient with respect to voxels. gradients: forward and back to the voxels.
    """

    forward: int = 0
    gradients: int = 0


@dataclass(frozen=True)
class Method:
    """An attribution method: call it with a score and a clip, what is known of the model, and the options it declares.

    Args:
        name: in METHODS and on the command line.
        function: (score_fn, clip (3, T, H, W), **needs, **options) -> heat (T, H, W).
        options: by their names in the function's signature.
        needs: names of CONTEXT that the function takes. "layer": the module whose features it reads; "upsample": from
            its cells (t, h, w) to voxels (T, H, W); "class_weights": (C,) of a linear head, or None;
            "head_weights": (K, C) of all its classes, or None; "score":
            "log_prob" or "activation"; "highest": the highest activation.
        voxelwise: whether heat is scattered over single voxels, and hence smoothed before it is drawn or boxed.
        optimises: whether it runs for up to `iterations` passes, and over many clips in one batch (`extremal_masks`).
        of_features: whether the layer's features are all that it takes from the network below them: whoever has them
            need not compute them again.
        of_attention: whether it reads the layer's attention between tokens, a class token's too, and not its features.
        propagates: whether it passes relevance back layer by layer, and can through a score that says how its relevance
            is divided.
        of_logits: whether it explains the logit of a published head, as it was published; of heads of HIPE it explains
            the log-probability, as the other methods do.
        cost: from the values of all options to the passes that one heat map takes, at most.
        edition: which version of the method this is; numbers that were measured on heat of another are not used.
    """

    name: str
    function: Callable[..., Tensor]
    options: Mapping[str, Option] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    voxelwise: bool = False
    optimises: bool = False
    of_features: bool = False
    propagates: bool = False
    of_logits: bool = False
    of_attention: bool = False
    edition: int = 1
    cost: Callable[[Mapping[str, object]], Passes] = lambda _: Passes(gradients=1)

    def passes(self, options: Mapping[str, object]) -> Passes:
        """The passes through the network that one heat map takes, at most.

        Args:
            options: that differ from their defaults.
        """
        return self.cost({name: option.default for name, option in self.options.items()} | dict(options))

    def __call__(self, score_fn: Callable[[Tensor], Tensor], clip: Tensor, **keywords: object) -> Tensor:
        """Heat (T, H, W) of a clip.

        Args:
            score_fn: (B, 3, T, H, W) -> (B,). clip: (3, T, H, W).
            keywords: any of CONTEXT, of which the method takes what it needs, and options that it declares.
        Raises:
            ValueError: for an option that it does not declare.
        """
        options = self.checked({name: value for name, value in keywords.items() if name not in CONTEXT})
        context = {name: value for name, value in keywords.items() if name in self.needs}
        return self.function(score_fn, clip, **context, **options)

    def checked(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options themselves.

        Raises:
            ValueError: for one that the method does not declare, or a value outside its range.
        """
        for name, value in options.items():
            try:
                self.option(name).checked(value)
            except ValueError as error:
                raise ValueError(str(error) if name not in self.options else f"{self.name}.{name} {error}") from error
        return dict(options)

    def option(self, name: str) -> Option:
        """What is declared of an option.

        Raises:
            ValueError: where nothing is.
        """
        if name not in self.options:
            known = f"it takes {', '.join(self.options)}" if self.options else "it takes none"
            raise ValueError(f"{self.name} has no option {name}; {known}")
        return self.options[name]

    def parse(self, name: str, text: str) -> object:
        """The value of an option from a text.

        Raises:
            ValueError: naming the method and the option.
        """
        option = self.option(name)
        try:
            return option.parse(text)
        except ValueError as error:
            raise ValueError(f"{self.name}.{name} {error}") from error
