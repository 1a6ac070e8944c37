"What `import fastcollab.all` brings beside fastai: nothing that takes long; benchmarks/imports.py measures it"
import subprocess, sys

# numba compiles when it is first needed; the others are for a single function each
HEAVY = ('numba','llvmlite','onnx','onnxscript','onnxruntime','plotly','umap','usearch','polars','spacy','torchvision',
    'torch._dynamo','torch._inductor','torch.onnx','IPython.core.interactiveshell')
OURS = {'fastcollab','safetensors'}
CODE = """
import sys
import {first}
before = {{o.split('.')[0] for o in sys.modules}}
import {then}
print(*{{o.split('.')[0] for o in sys.modules}}-before)
print(*sys.modules)
"""
def modules(first, then):
    "Packages that come with `then` after `first`, and all modules then"
    res = subprocess.run([sys.executable, '-c', CODE.format(first=first, then=then)], capture_output=True, text=True,
        check=True)
    return [set(o.split()) for o in res.stdout.splitlines()]

def test_nothing_beside_fastai():
    "No package of its own, and no heavy one"
    new,every = modules('fastai.tabular.all', 'fastcollab.all')
    assert {o for o in new if o not in sys.stdlib_module_names}-{'_distutils_hack'}<=OURS
    assert [o for o in HEAVY if o in every]==[]

def test_a_server_needs_no_fastai():
    "A recommender imports neither fastai nor a plotting library"
    _,every = modules('torch', 'fastcollab.recommend.recommender')
    heavy = 'fastcollab.all','fastcollab.train','fastai.learner','matplotlib.pyplot',*HEAVY
    assert [o for o in heavy if o in every]==[]
