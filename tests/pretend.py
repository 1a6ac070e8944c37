"""A pretended device: its tensors are tensors of the CPU in disguise, and what fails on a GPU fails on it

Import this module before the first gradient of a process: later, autograd has no queue for the device. `WAITS` counts
what would make the host wait for a GPU, copies from and to it included."""
from collections import Counter
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

class Backend(_DummyBackendModule):
    "What `torch.pretend` is"
    def device(self, o): return nullcontext()
    def get_rng_state(self, device=None): return torch.get_rng_state()
    def set_rng_state(self, state, device=None): torch.set_rng_state(state)

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
    def __reduce_ex__(self, proto):
        return saved_tensor,(self.inner.detach(), self.requires_grad, isinstance(self, nn.Parameter))
    def __deepcopy__(self, memo):
        copy = saved_tensor(self.inner.detach().clone(), self.requires_grad, isinstance(self, nn.Parameter))
        return memo.setdefault(id(self), copy)
    def tolist(self): return self.cpu().tolist()
    def numpy(self, *args):
        raise TypeError("can't convert pretend:0 device type tensor to numpy; use Tensor.cpu() first")
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
def _is_device(o): return isinstance(o, torch.device) and o.type=='pretend'

def unwrapped(o, tensors):
    "An argument of an operation on the CPU; collects the tensors in it"
    if isinstance(o, Tensor):
        tensors.append(o)
        return o.inner if is_pretended(o) else o
    if isinstance(o, (list,tuple)): return type(o)([unwrapped(x, tensors) for x in o])
    return torch.device('cpu') if _is_device(o) else o

def rewrapped(o, mine, on_device):
    "A result of an operation on the CPU; what was changed in place stays itself"
    if isinstance(o, Tensor): return mine[id(o)] if id(o) in mine else PretendTensor(o) if on_device else o
    return type(o)([rewrapped(x, mine, on_device) for x in o]) if isinstance(o, (list,tuple)) else o

def refuse(func, tensors):
    "What CUDA says of operands on two devices"
    others = [o for o in tensors if not is_pretended(o) and o.ndim]
    if others and len(others)<len(tensors) and func not in _copies|_indexing:
        raise RuntimeError(f'{func}: expected all tensors to be on the same device, but found pretend:0 and cpu')

def run(func, args, kwargs):
    "An operation on the device, or from or to it"
    tensors,to = [],kwargs.get('device')
    args_,kwargs_ = unwrapped(args, tensors),{k:unwrapped(v, tensors) for k,v in kwargs.items()}
    on_device = any(map(is_pretended, tensors)) if to is None else torch.device(to).type=='pretend'
    refuse(func, tensors)
    waits = func in _waiting and 'output_size' not in kwargs
    crosses = func in _copies and not all(map(is_pretended, tensors))
    if waits or not on_device or crosses: WAITS[str(func)] += 1
    mine = {id(o.inner if is_pretended(o) else o):o for o in tensors}
    return rewrapped(func(*args_, **kwargs_), mine, on_device)

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
    res = cpu if stays or is_pretended(cpu) else PretendTensor(cpu)
    return nn.Parameter(res, requires_grad) if is_param else res.requires_grad_(requires_grad)

torch.serialization.add_safe_globals([saved_tensor])
_load,_rebuild = torch.load,torch._utils._rebuild_tensor_v2
def load(f, map_location=None, **kwargs):
    "`torch.load`, which knows the device: all tensors of a file go to the place that `map_location` names"
    to_device = map_location is not None and torch.device(map_location).type=='pretend'
    with patch.dict(_place, map=map_location):
        if not to_device: return _load(f, map_location=map_location, **kwargs)
        def rebuild(*args): return PretendTensor(_rebuild(*args))
        objects = not kwargs.get('weights_only', True)
        with patch('torch._utils._rebuild_tensor_v2', rebuild) if objects else nullcontext():
            res = _load(f, map_location='cpu', **kwargs)
    return tree_map_only(Tensor, lambda o: o.to(DEVICE), res)

_as_subclass = Tensor.as_subclass
def as_subclass(self, cls):
    "fastai's, but a tensor that has come back from the device isn't put on again because it once was"
    return self if cls is PretendTensor else _as_subclass(self, cls)

def default_device(use=None): return DEVICE

def scatter(t, devices, sizes, dim, streams):
    "What `DataParallel` does with a batch, for one device"
    return (t.to(DEVICE),)

@contextmanager
def pretending():
    "Modules that move keep their parameters, as on a GPU, and files know the device"
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (patch('torch.load', load), patch('torch.Generator', PretendGenerator),
            patch('fastai.learner.default_device', default_device), patch('torch._C._scatter', scatter, create=True),
            patch('fastai.data.core.default_device', default_device),
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
