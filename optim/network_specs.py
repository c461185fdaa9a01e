"""The text that names an optimizer for each network."""

import dataclasses
import re

from optim.spec import OptimizerSpec


@dataclasses.dataclass(frozen=True)
class NetworkSpecs:
    """Optimizers of several networks: `NETWORK=OPTIMIZER+NETWORK=OPTIMIZER`.

    A + needs no quotes in a shell, and no optimizer's text holds one before `NETWORK=`, unless a
    path of weights does.

    Attributes:
        specs: pairs of a network's name and its optimizer's spec.

    Raises:
        ValueError: if a network is named twice, or none is.

    Examples:
        >>> specs = NetworkSpecs.parse("actor=adam+critic=adamo:kappa=1,tau=0.05")
        >>> dict(specs.specs)["critic"].options
        (('kappa', 1), ('tau', 0.05))
        >>> str(specs)
        'actor=adam+critic=adamo:kappa=1,tau=0.05'
    """

    specs: tuple[tuple[str, OptimizerSpec], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.specs]
        if not names:
            raise ValueError("specs must name at least one network, got none.")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"network {name!r} must be given one optimizer.")

    @classmethod
    def parse(cls, text: str) -> "NetworkSpecs":
        """Reads specs.

        Args:
            text: the specs of all networks.

        Returns:
            The specs. Their `str` is a text that reads as the same.

        Raises:
            ValueError: if the text is not of that form.

        Examples:
            >>> NetworkSpecs.parse("actor=")
            Traceback (most recent call last):
            ...
            ValueError: optimizers of networks must have the form NETWORK=OPTIMIZER+NETWORK=\
OPTIMIZER, got 'actor='.
        """
        parts = [part.partition("=") for part in re.split(r"\+(?=\s*\w+\s*=)", text.strip())]
        named = [(name.strip(), spec.strip()) for name, _, spec in parts]
        if not all(re.fullmatch(r"\w+", name) and spec for name, spec in named):
            raise ValueError(
                "optimizers of networks must have the form NETWORK=OPTIMIZER+NETWORK=OPTIMIZER, "
                f"got {text!r}."
            )
        return cls(tuple((name, OptimizerSpec.parse(spec)) for name, spec in named))

    def __str__(self) -> str:
        return "+".join(f"{name}={spec}" for name, spec in self.specs)


def parse_spec(text: str) -> OptimizerSpec | NetworkSpecs:
    """Reads the text of an optimizer, or of one for each network.

    Args:
        text: as `OptimizerSpec.parse` or `NetworkSpecs.parse` reads it.

    Returns:
        The spec or specs.

    Raises:
        ValueError: if the text is of neither form.

    Examples:
        >>> type(parse_spec("adam")).__name__, type(parse_spec("actor=adam+critic=sgd")).__name__
        ('OptimizerSpec', 'NetworkSpecs')
    """
    is_of_networks = re.match(r"\s*\w+\s*=", text)
    return NetworkSpecs.parse(text) if is_of_networks else OptimizerSpec.parse(text)


def parts_of(spec: OptimizerSpec | NetworkSpecs) -> dict[str, OptimizerSpec]:
    """The specs of all networks by name; by an empty name if there is one for all.

    Examples:
        >>> list(parts_of(parse_spec("actor=adam+critic=sgd"))), list(parts_of(parse_spec("sgd")))
        (['actor', 'critic'], [''])
    """
    return dict(spec.specs) if isinstance(spec, NetworkSpecs) else {"": spec}
