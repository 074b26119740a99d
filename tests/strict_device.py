"""A second device without a GPU: tensors that lie in CPU memory, say they live elsewhere, and are as strict as CUDA's.

What goes wrong on a GPU and never on a CPU is a tensor in the wrong place. So this device, written in Python, computes
with PyTorch's CPU kernels and refuses what CUDA refuses: tensors of two devices in one operation (a CPU number without
axes is let through, as CUDA does), ``.numpy()``, and a CPU generator that draws on the device. With
``STRICT_DEVICE_LIKE=mps`` it also refuses what Apple's GPU lacks at the lowest torch that the package allows.

    python tests/strict_device.py lectures/10_a_small_vlm.ipynb    executes chapters on it, names the first failing cell
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.library import Library, fallthrough_kernel
from torch.utils._pytree import tree_leaves, tree_map

NAME = "strict"
LIKE_MPS = "STRICT_DEVICE_LIKE"  # environment variable

aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default}  # what may have tensors of two devices
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
NUMBERS = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.index_fill.int_Tensor, aten.index_fill_.int_Tensor}
NUMBERS |= {aten.fill.Tensor, aten.fill_.Tensor, *INDEXING}  # besides pointwise ones, these take a CPU number
ABSENT_ON_MPS = {"aten::linalg_qr", "aten::_linalg_eigh", "aten::_linalg_svd"}  # in torch 2.8, of those used here

_state = {"random": torch.Generator().manual_seed(0).get_state()}  # of the generator that draws on the device
_operators = Library("aten", "IMPL")  # registrations live as long as this object
_every_operator = Library("_", "IMPL")


class StrictTensor(torch.Tensor):
    """A tensor of the device. Its numbers lie in ``on_cpu``; nobody outside this file looks there."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, on_cpu):
        if on_cpu.dtype == torch.float64 and os.environ.get(LIKE_MPS) == "mps":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return torch.Tensor._make_wrapper_subclass(
            cls, on_cpu.shape, on_cpu.stride(), on_cpu.storage_offset(), dtype=on_cpu.dtype, device=f"{NAME}:0"
        )

    def __init__(self, on_cpu):
        self.on_cpu = on_cpu

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        _refuse(func, args, kwargs)
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        random = torch.Tag.nondeterministic_seeded in func.tags
        with _device_draws() if random else contextlib.nullcontext():
            result = func(*tree_map(_unwrapped, args), **tree_map(_unwrapped, kwargs))
        if func is aten._to_copy.default and wanted is None:
            wanted = args[0].device
        if wanted is not None and torch.device(wanted).type == "cpu":
            return result
        mutated = [a.name for a in func._schema.arguments if a.is_out or (a.alias_info and a.alias_info.is_write)]
        if mutated and len(func._schema.returns):  # in place, or into out=: what came in goes out
            named = {**dict(zip([a.name for a in func._schema.arguments], args, strict=False)), **kwargs}
            outs = [named[name] for name in mutated if isinstance(named.get(name), torch.Tensor)]
            for out in outs:
                if isinstance(out, StrictTensor) and out.shape != out.on_cpu.shape:
                    raise NotImplementedError(f"{func} changed the shape of its out=")
            return outs[0] if len(func._schema.returns) == 1 else tuple(outs)
        return tree_map(_wrapped, result)

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, new):
        torch.Tensor.data.__set__(self, new)
        self.on_cpu = new.on_cpu

    def numpy(self, *, force=False):
        if not force:
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy it first"
            )
        return self.detach().cpu().numpy()

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)

    def tolist(self):
        return self.detach().cpu().tolist()

    def __repr__(self, *, tensor_contents=None):
        return f"{self.detach().cpu()!r}"[:-1] + f", device='{self.device}')"

    def __format__(self, spec):
        return format(self.detach().cpu(), spec)


def _unwrapped(value):
    return value.on_cpu if isinstance(value, StrictTensor) else value


def _wrapped(value):
    return StrictTensor(value) if isinstance(value, torch.Tensor) else value


def _refuse(func, args, kwargs):
    """Raise what CUDA raises."""
    _refuse_generator(kwargs.get("generator"))
    if os.environ.get(LIKE_MPS) == "mps":
        border = func is aten.grid_sampler_2d.default and args[3] == 1
        if border or func._schema.name in ABSENT_ON_MPS:
            raise NotImplementedError(f"The operator '{func._schema.name}' is not currently implemented for MPS")
    if func in MOVES:
        return
    on_cpu = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and not isinstance(t, StrictTensor)]
    if func in INDEXING:  # positions may lie on the CPU, numbers too, but what is indexed may not
        on_cpu = [t for t in (args[0], *args[2:3]) if isinstance(t, torch.Tensor) and not isinstance(t, StrictTensor)]
    takes_numbers = torch.Tag.pointwise in func.tags or func in NUMBERS
    written = args and func._schema.is_mutable and not isinstance(args[0], StrictTensor)
    if on_cpu and (written or not takes_numbers or any(t.ndim for t in on_cpu)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
            f"(in {func})"
        )


def _refuse_generator(generator):
    if generator is not None:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'")


@contextlib.contextmanager
def _device_draws():
    """Draw from the device's generator, and leave the CPU's where it was."""
    before = torch.get_rng_state()
    torch.set_rng_state(_state["random"])
    try:
        yield
    finally:
        _state["random"] = torch.get_rng_state()
        torch.set_rng_state(before)


class _DeviceModule:
    """What ``torch.strict`` offers, as ``torch.cuda`` does."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    get_rng_state = staticmethod(lambda device=None: _state["random"].clone())
    set_rng_state = staticmethod(lambda state, device=None: _state.update(random=state.clone()))

    @staticmethod
    def manual_seed_all(seed):
        _state["random"] = torch.Generator().manual_seed(seed).get_state()


def _factory(op):
    def make(*args, **kwargs):
        _refuse_generator(kwargs.get("generator"))
        kwargs.update(device="cpu", pin_memory=None)
        with _device_draws() if torch.Tag.nondeterministic_seeded in op.tags else contextlib.nullcontext():
            return StrictTensor(op(*args, **{name: value for name, value in kwargs.items() if value is not None}))

    return make


def _copy_from(source, target, non_blocking=False):
    """What ``torch.tensor(data, device=...)`` calls, beneath ``__torch_dispatch__``."""
    _unwrapped(target).copy_(_unwrapped(source))
    return target


def _lstm_cell(input_gates, hidden_gates, cx, input_bias=None, hidden_bias=None):
    """CUDA's fused cell, written out."""
    gates = input_gates + hidden_gates
    if input_bias is not None:
        gates = gates + input_bias + hidden_bias
    let_in, forget, cell, let_out = gates.chunk(4, 1)
    cy = forget.sigmoid() * cx + let_in.sigmoid() * cell.tanh()
    return let_out.sigmoid() * cy.tanh(), cy, gates


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    """What PyTorch falls back to where a device has no kernel of its own; it takes no masks of True and False."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


def _keeping_parameters(apply):
    """Let a model that moves keep its parameters, as on CUDA: optimisers and tied weights hold on to them."""

    def apply_and_keep(self, *args, **kwargs):
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(self, *args, **kwargs)
        except RuntimeError as error:
            if "swap" not in str(error):
                raise
            # The graph of an earlier forward pass holds the weights, which CUDA lets go on there: they are replaced.
            torch.__future__.set_swap_module_params_on_conversion(False)
            return apply(self, *args, **kwargs, recurse=False)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    return apply_and_keep


def register():
    """Make the device known to PyTorch, once and for the whole process; return its name."""
    if hasattr(torch, NAME):
        return NAME
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_DeviceModule())
    for name in ("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m",
                 "linspace", "logspace", "randperm", "randperm.generator", "tril_indices", "triu_indices"):  # fmt: skip
        packet, _, overload = name.partition(".")
        _operators.impl(name, _factory(getattr(getattr(aten, packet), overload or "default")), "PrivateUse1")
    _every_operator.fallback(fallthrough_kernel, "AutocastPrivateUse1")  # nothing is cast
    _operators.impl("_copy_from", _copy_from, "PrivateUse1")
    _operators.impl("_thnn_fused_lstm_cell", _lstm_cell, "AutogradPrivateUse1")
    _operators.impl("scaled_dot_product_attention", _attention, "AutogradPrivateUse1")
    torch.nn.Module._apply = _keeping_parameters(torch.nn.Module._apply)
    return NAME


def run_notebook(path):
    """Execute a notebook's code cells on the device; return the position of the first that fails, and its error."""
    from IPython.core.interactiveshell import InteractiveShell

    path = Path(path).resolve()
    shell = InteractiveShell.instance()
    shell.reset()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for position, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        with contextlib.redirect_stdout(sys.stderr):
            result = shell.run_cell("".join(cell["source"]), store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            return position, error
    return None


def run_notebooks(paths, look=lambda: []):
    """Execute notebooks in an empty folder, and print what became of each; return whether one failed.

    ``look`` is called after each and returns what else is wrong with it, in lines.
    """
    os.environ["MPLBACKEND"] = "agg"
    failed = False
    notebooks = [Path(path).resolve() for path in paths]
    os.chdir(tempfile.mkdtemp())
    for notebook in notebooks:
        began = time.perf_counter()
        found = run_notebook(notebook)
        said = "ran whole" if found is None else f"cell {found[0]}: {type(found[1]).__name__}: {found[1]}"
        wrong = look()
        lines = [f"{notebook.name}: {said} ({time.perf_counter() - began:.0f} s)", *wrong]
        print("\n  ".join(lines), flush=True)
        failed |= found is not None or bool(wrong)
    return failed


if __name__ == "__main__":
    os.environ["VLMCOURSE_DEVICE"] = NAME
    register()
    sys.exit(run_notebooks(sys.argv[1:]))
