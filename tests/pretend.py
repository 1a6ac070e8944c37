"""A pretended device: its tensors are tensors of the CPU in disguise, and what fails on a GPU fails on it

Importing this module registers the device `pretend`, before the first gradient of a process: later, autograd has no queue
for it. `WAITS` counts what would make the host wait for a GPU."""
from collections import Counter
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

class Backend(_DummyBackendModule):
    "What `torch.pretend` is"
    def device(self, o): return nullcontext()

_setup_privateuseone_for_python_backend('pretend', Backend())
DEVICE,WAITS,aten = torch.device('pretend', 0),Counter(),torch.ops.aten
_copies = {aten.copy_.default, aten._copy_from.default}
_indexing = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default}   # they take indices from the CPU
_waiting = {aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default, aten.masked_select.default,
    aten.unique_consecutive.default, aten.equal.default, aten.repeat_interleave.Tensor, aten.bincount.default}

class PretendTensor(Tensor):
    "A tensor on the device `pretend`, in the CPU tensor `inner`"
    __torch_function__ = torch._C._disabled_torch_function_impl
    @staticmethod
    def __new__(cls, inner):
        strided,coo = inner.layout==torch.strided,inner.layout==torch.sparse_coo   # others look strided from outside
        size = dict(strides=inner.stride(), storage_offset=inner.storage_offset()) if strided else {}
        layout = inner.layout if coo else torch.strided
        res = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, layout=layout, device=DEVICE, **size)
        res.inner = inner
        return res
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})
    def __repr__(self): return f'pretend({self.inner!r})'
    def __reduce_ex__(self, proto): return saved_tensor,(self.inner.detach(), self.requires_grad, isinstance(self, nn.Parameter))
    def __deepcopy__(self, memo): return memo.setdefault(id(self), saved_tensor(self.inner.detach().clone(),
        self.requires_grad, isinstance(self, nn.Parameter)))
    def tolist(self): return self.cpu().tolist()
    def numpy(self, *args): raise TypeError("can't convert pretend:0 device type tensor to numpy; use Tensor.cpu() first")
    def __array__(self, *args): self.numpy()
    @property
    def data(self): return Tensor.data.__get__(self)
    @data.setter
    def data(self, new):
        if not is_pretended(new): raise RuntimeError('incompatible tensor type: data of pretend:0 from cpu')
        Tensor.data.__set__(self, new)
        self.inner = new.inner

class PretendGenerator(torch.Generator):
    "A generator of random numbers, for the CPU or the device"
    def __new__(cls, device='cpu'):
        res = super().__new__(cls)
        res.where = torch.device(device)
        return res
    @property
    def device(self): return DEVICE if _is_device(self.where) else self.where

def is_pretended(o): return isinstance(o, PretendTensor)
def inner(o): return o.inner if is_pretended(o) else torch.device('cpu') if _is_device(o) else o
def _is_device(o): return isinstance(o, torch.device) and o.type=='pretend'

def refuse(func, tensors):
    "What CUDA says of operands on two devices"
    others = [o for o in tensors if not is_pretended(o) and o.ndim]
    if others and len(others)<len(tensors) and func not in _copies|_indexing:
        raise RuntimeError(f'{func}: expected all tensors to be on the same device, but found pretend:0 and cpu')

def run(func, args, kwargs):
    "An operation on the device, or from or to it"
    leaves,spec = tree_flatten((args, kwargs))
    tensors,to = [o for o in leaves if isinstance(o, Tensor)],kwargs.get('device')
    on_device = any(map(is_pretended, tensors)) if to is None else torch.device(to).type=='pretend'
    refuse(func, tensors)
    leaves_it = not on_device or func in _copies and not is_pretended(args[0])
    if func in _waiting or leaves_it: WAITS[str(func)] += 1
    args_,kwargs_ = tree_unflatten(list(map(inner, leaves)), spec)
    out,mine = func(*args_, **kwargs_),{id(inner(o)):o for o in tensors}   # what is changed in place stays itself
    def outer(o): return mine[id(o)] if id(o) in mine else PretendTensor(o) if on_device else o
    return tree_map_only(Tensor, outer, out)

_fallback,_aten = torch.library.Library('_', 'IMPL'),torch.library.Library('aten', 'IMPL')
_fallback.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), 'PrivateUse1')
for func in (aten._local_scalar_dense, aten.empty_strided, aten.copy_):   # `torch.tensor` skips the class
    _aten.impl(func.default, lambda *args, func=func.default, **kwargs: run(func, args, kwargs), 'PrivateUse1')

# Files: `torch.load(map_location=)` decides where tensors of a device go, and a machine without the device needs it

_place = {'present':True, 'map':None}

def saved_tensor(cpu, requires_grad, is_param):
    "A tensor of the device from a file"
    if not _place['present'] and _place['map'] is None:
        raise RuntimeError('Attempting to deserialize object on a pretend device; use map_location')
    stays = _place['map'] is not None and torch.device(_place['map']).type=='cpu'
    res = cpu if stays else PretendTensor(cpu)
    return nn.Parameter(res, requires_grad) if is_param else res.requires_grad_(requires_grad)

torch.serialization.add_safe_globals([saved_tensor])
_load = torch.load
def load(f, map_location=None, **kwargs):
    "`torch.load`, which knows the device"
    to_device = map_location is not None and torch.device(map_location).type=='pretend'
    with patch.dict(_place, map=map_location):
        res = _load(f, map_location='cpu' if to_device else map_location, **kwargs)
    return tree_map_only(Tensor, lambda o: o.to(DEVICE), res) if to_device else res

_as_subclass = Tensor.as_subclass
def as_subclass(self, cls):
    "fastai's, but a tensor that has come back from the device isn't put on again because it once was"
    return self if cls is PretendTensor else _as_subclass(self, cls)

@contextmanager
def pretending():
    "Modules that move keep their parameters, as on a GPU, and files know the device"
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (patch('torch.load', load), patch('torch.Generator', PretendGenerator),
            patch.object(Tensor, 'as_subclass', as_subclass)): yield DEVICE
    finally: torch.__future__.set_swap_module_params_on_conversion(before)

@contextmanager
def elsewhere():
    "A machine without the device"
    with patch.dict(_place, present=False): yield

@contextmanager
def count_waits():
    "What the host waited for in the context, as a `Counter`"
    before,res = Counter(WAITS),Counter()
    yield res
    res.update(WAITS-before)
