"""What a network does, layer by layer, in the words of ``page/network.mjs``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from pyro_vae.checks import say
from pyro_vae.explorer.store import Store
from pyro_vae.networks import ColumnFeatures, ConvDecoder, ConvEncoder, MaskedInput, SkipHead

__all__ = ["network_spec"]

Shape = tuple[int, ...]


def network_spec(network: nn.Module, store: Store, inputs: int) -> dict[str, Any]:
    """Return a network as the page computes it.

    Args:
        network: of linear layers, convolutions, activations, and what :mod:`pyro_vae.networks` has.
        store: takes the weights.
        inputs: how many numbers one input is.

    Raises:
        ValueError: if there is a layer that the page does not know.
    """
    spec, shape = _layer(network, store, (inputs,))
    return {"layer": spec, "inputs": inputs, "outputs": math.prod(shape)}


def _layer(module: nn.Module, store: Store, shape: Shape) -> tuple[Any, Shape]:
    """A layer, and the shape of what it gives for one of this shape."""
    if type(module) in _ACTIVATIONS:
        return {"op": type(module).__name__, **_ACTIVATIONS[type(module)](module)}, shape
    for kind, describe in _LAYERS.items():
        if isinstance(module, kind):
            spec, out = describe(module, store, shape)
            return spec, out
    known = ", ".join(sorted(kind.__name__ for kind in (*_LAYERS, *_ACTIVATIONS) if kind not in {nn.Identity}))
    raise ValueError(
        say(f"a network of layers that the page can run ({known})", type(module).__name__, "networks.mlp(2, 128, 64)")
    )


def _nothing(module: Any, store: Store, shape: Shape) -> tuple[Any, Shape]:
    return {"op": "Identity"}, shape


def _flatten(module: Any, store: Store, shape: Shape) -> tuple[Any, Shape]:
    return {"op": "Identity"}, (math.prod(shape),)


def _unflatten(module: nn.Unflatten, store: Store, shape: Shape) -> tuple[Any, Shape]:
    sizes: Any = module.unflattened_size
    return {"op": "Identity"}, tuple(int(size) for size in sizes)


def _sequence(module: nn.Sequential, store: Store, shape: Shape) -> tuple[Any, Shape]:
    layers = []
    for layer in module:
        spec, shape = _layer(layer, store, shape)
        layers.append(spec)
    return {"op": "Sequential", "layers": layers}, shape


def _linear(module: nn.Linear, store: Store, shape: Shape) -> tuple[Any, Shape]:
    if shape != (module.in_features,):
        got = f"an input of shape {shape} for one of {module.in_features}"
        raise ValueError(say("layers that fit one another", got, "nn.Flatten() before nn.Linear"))
    spec = {"op": "Linear", "weight": store.put(module.weight), "bias": _bias(module, store)}
    return spec, (module.out_features,)


def _bias(module: Any, store: Store) -> Any:
    return None if module.bias is None else store.put(module.bias)


def _convolution(module: Any, store: Store, shape: Shape) -> tuple[Any, Shape]:
    transposed = isinstance(module, nn.ConvTranspose2d)
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str) or len(shape) != 3:
        expected = "convolutions of images without groups and dilation, padded with zeros by a number"
        raise ValueError(say(expected, f"{module}, on shape {shape}", "networks.ConvDecoder(28, latent_dim=2)"))
    _, *size = shape
    sizes = zip(size, module.kernel_size, module.stride, module.padding, module.output_padding, strict=True)
    if transposed:
        out = tuple((n - 1) * stride - 2 * pad + kernel + extra for n, kernel, stride, pad, extra in sizes)
    else:
        out = tuple((n + 2 * pad - kernel) // stride + 1 for n, kernel, stride, pad, _ in sizes)
    spec = {
        "op": "ConvTranspose2d" if transposed else "Conv2d",
        "weight": store.put(module.weight),
        "bias": _bias(module, store),
        "stride": list(module.stride),
        "padding": list(module.padding),
        "from": list(shape),
        "to": [module.out_channels, *out],
    }
    return spec, (module.out_channels, *out)


def _conv_encoder(module: ConvEncoder, store: Store, shape: Shape) -> tuple[Any, Shape]:
    return _layer(module.layers, store, module.image_shape)


def _conv_decoder(module: ConvDecoder, store: Store, shape: Shape) -> tuple[Any, Shape]:
    return _layer(module.layers, store, shape)


def _skip_head(module: SkipHead, store: Store, shape: Shape) -> tuple[Any, Shape]:
    linear, out = _layer(module.linear, store, shape)
    number = store.place_of(module.trunk)
    if number is None:
        number = store.share(module.trunk, _layer(module.trunk, store, shape)[0])
    bent, _ = _layer(module.bent, store, (module.bent.in_features,))
    return {"op": "SkipHead", "linear": linear, "trunk": number, "bent": bent}, out


def _masked_input(module: MaskedInput, store: Store, shape: Shape) -> tuple[Any, Shape]:
    inputs = math.prod(shape)
    spec, out = _layer(module.network, store, (2 * inputs,))
    return {"op": "MaskedInput", "network": spec}, out


def _column_features(module: ColumnFeatures, store: Store, shape: Shape) -> tuple[Any, Shape]:
    spec, out = _layer(module.network, store, (module.num_inputs,))
    own = {
        "op": "ColumnFeatures",
        "scales": list(module.scales),
        "categories": list(module.num_categories),
        "missing": module.missing,
        "loc": store.put(module.loc),
        "scale": store.put(module.scale),
        "network": spec,
    }
    return own, out


_LAYERS: dict[type[nn.Module], Callable[..., tuple[Any, Shape]]] = {
    nn.Sequential: _sequence,
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,  # the page shows the trained network, which drops nothing
    ConvEncoder: _conv_encoder,
    ConvDecoder: _conv_decoder,
    SkipHead: _skip_head,
    MaskedInput: _masked_input,
    ColumnFeatures: _column_features,
}


def _plain(module: Any) -> dict[str, Any]:
    return {}


_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys((nn.SiLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Mish, nn.SELU, nn.Softsign), _plain),
    nn.GELU: lambda module: {"tanh": module.approximate == "tanh"},
    nn.ELU: lambda module: {"alpha": module.alpha},
    nn.LeakyReLU: lambda module: {"slope": module.negative_slope},
    nn.Softplus: lambda module: {"beta": float(module.beta)},
}
