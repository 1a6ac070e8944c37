"`LazyAdam` against fastai's `Adam`, which walks over every row in every step"
import copy, math
from functools import partial

import numpy as np, pytest, torch
from fastai.callback.schedule import combined_cos
from fastai.optimizer import Adam
from fastai.tabular.all import Module, nn, params
from fastcollab.kernels.jit import unusable
from fastcollab.train import optimizer
from fastcollab.all import LazyAdam, ParamEmbedding
from fastcollab.kernels.steps import StepTables
from hypothesis import given, settings, strategies as st

EXACT = dict(eps=1e-10, wd=.1)   # eps is left aside while a row waits, so it has to be small where numbers are compared

@pytest.fixture(params=['compiled','torch'])
def path(request, monkeypatch):
    "Both ways to move rows; the compiled one has to be there"
    if request.param=='torch': monkeypatch.setattr(optimizer, 'load_kernels', lambda name: None)
    else: assert not unusable()
    return request.param

class Net(Module):
    "Two tables, and dense parameters beside them"
    def __init__(self, n=30, k=3, emb=nn.Embedding): self.a,self.b,self.lin = emb(n, k),emb(n, k),nn.Linear(k, 1)
    def forward(self, x, z): return self.lin(self.a(x)*self.b(z))[:,0]

def make(cls=Net, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    model = cls(**kwargs)
    for p in model.parameters(): p.data = torch.randn(p.shape)
    return model.to(dtype)

def batches(n, rows=30, seed=0, most=6, dtype=torch.float64, device='cpu'):
    "`n` batches of rows of both tables, with repeats, and targets; high rows wait through the first half"
    g = torch.Generator().manual_seed(seed)
    for s in range(n):
        bs = int(torch.randint(1, most, (), generator=g))
        x,z = torch.randint(0, rows if s%50<3 else rows//3, (2,bs), generator=g)
        yield x.to(device),z.to(device),torch.randn(bs, generator=g).to(device, dtype)

def cycle(n, lr=1e-2):
    return [dict(lr=combined_cos(.25, lr/25, lr, lr/1e5)(s/n), mom=combined_cos(.25, .95, .85, .95)(s/n))
        for s in range(n)]

def one(model, opt, x, z, y):
    ((model(x, z)-y)**2).mean().backward()
    opt.step()
    opt.zero_grad()

def planned(opt, hypers):
    return opt.plan(**{k:np.array([h[k] for h in hypers]) for k in hypers[0]}) if isinstance(opt, LazyAdam) else opt

def train(model, opt, data, hypers=None, each=lambda s,model,opt: None):
    "As many steps as there are batches; `each` sees the model before them"
    if isinstance(opt, LazyAdam): opt.attach(model)
    if hypers is not None: planned(opt, hypers)
    for s,b in enumerate(data):
        each(s, model, opt)
        if hypers is not None: opt.set_hypers(**hypers[s])
        one(model, opt, *b)
    if isinstance(opt, LazyAdam): opt.detach()
    return model

def moved(got, want, start):
    "The largest difference of a parameter, relative to the distance that it moved"
    return max(float((a-b).detach().norm()/(b-c).detach().norm())
        for a,b,c in zip(*(o.parameters() for o in (got,want,start))))

def both(data, hypers=None, cls=Net, split=lambda m: list(m.parameters()), each=lambda s,model,opt: None, opts=EXACT,
    before=lambda m,o: None, **kwargs):
    "Models after the same steps of `LazyAdam` and of `Adam`, and before them"
    res,data = [],list(data)
    for f in (LazyAdam,Adam):
        model = make(cls, **kwargs)
        opt = f(split(model), lr=1e-2, **opts)
        before(model, opt)
        res.append(train(model, opt, data, hypers, each))
    return *res,make(cls, **kwargs)

@pytest.mark.slow
@pytest.mark.parametrize('emb', [nn.Embedding, ParamEmbedding])
def test_one_cycle_of_500_steps(emb, path): assert moved(*both(batches(500), cycle(500), emb=emb)) < 1e-6

@pytest.mark.parametrize('dtype,tol', [(torch.float64,1e-6), (torch.float32,1e-4)])
@pytest.mark.parametrize('hypers', [None, cycle(60)], ids=['constant','cycle'])
@pytest.mark.parametrize('wd', [0,.3])
def test_dtypes_and_schedules(path, dtype, tol, hypers, wd):
    "Also without a schedule, and in float32"
    opts = dict(wd=wd, eps=1e-10)
    assert moved(*both(batches(60, dtype=dtype), hypers, dtype=dtype, opts=opts)) < tol

@pytest.mark.slow
def test_beyond_the_tables(path):
    "More steps than the 512 prepared ones, and a schedule that the optimizer doesn't know, or knows wrongly"
    assert moved(*both(batches(600, most=3))) < 1e-6
    for plan in (lambda o: None, lambda o: o.plan(lr=np.full(80, 5.)), lambda o: o.plan(lr=np.full(3, 1e-2)),
        lambda o: o.plan(mom=np.full(80, .9))):
        def each(s, model, opt):
            if isinstance(opt, LazyAdam) and s==0: plan(opt)
            opt.set_hypers(lr=1e-2*(1+s//7), mom=.9-.1*(s//9%2))
        assert moved(*both(batches(80), each=each)) < 1e-6

STEP = st.fixed_dictionaries(dict(rows=st.lists(st.integers(0, 5), max_size=8), lr=st.sampled_from([0.,1e-4,1e-2,.1]),
    mom=st.sampled_from([0.,.5,.9,.99]),
    flush=st.sampled_from([False]*4+[True])))

@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=25), st.sampled_from([0,.01,1.]),
    st.sampled_from(['all','half','wrong','none']), st.booleans(), st.booleans(),
    st.integers(0, 99))
def test_any_sequence_of_steps(steps, wd, plan, fast, param, seed):
    "What is read at each step, and all rows at the end, are those of `Adam`, whatever was announced"
    rng,hypers = np.random.default_rng(seed),[dict(lr=s['lr'], mom=s['mom']) for s in steps]
    # no gradient near 0, where eps would count
    coefs,signs = [rng.uniform(.5, 2, (len(s['rows']),2)) for s in steps],rng.choice([-1,1], len(steps))
    reads,keep = [],optimizer.load_kernels
    if not fast: optimizer.load_kernels = lambda name: None
    try:
        for f in (LazyAdam,Adam):
            torch.manual_seed(seed)
            emb = (ParamEmbedding if param else nn.Embedding)(6, 2).double()
            opt,got = f(list(emb.parameters()), lr=.1, eps=1e-10, wd=wd),[]
            lazy = f is LazyAdam
            if lazy: opt.attach(emb)
            if lazy and plan!='none':
                planned(opt, dict(all=hypers, half=hypers[:len(hypers)//2+1], wrong=hypers[::-1])[plan])
            for s,h,c,sign in zip(steps, hypers, coefs, signs):
                opt.set_hypers(**h)
                v = emb(torch.tensor(s['rows'], dtype=torch.long))
                got.append(v.detach().clone())
                (v*torch.tensor(c*sign)).sum().backward()
                opt.step()
                opt.zero_grad()
                if lazy and s['flush']: opt.flush()
            if lazy: opt.detach()
            reads.append([*got, emb.weight.detach().clone()])
    finally: optimizer.load_kernels = keep
    for a,b in zip(*reads): assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)

def test_one_row_in_the_whole_batch(path):
    x = torch.full((50,), 7)
    assert moved(*both([(x,x,torch.randn(50, generator=torch.Generator().manual_seed(s)).double())
        for s in range(30)])) < 1e-6

# Groups, decay, frozen, shared and whole tables

def by_group(m): return [[m.a.weight],[m.b.weight,*params(m.lin)]]

def test_groups_have_their_own_rates(path):
    hypers = [dict(lr=[h['lr'],3*h['lr']], mom=h['mom']) for h in cycle(80)]
    got,want,start = both(batches(80), hypers, split=by_group)
    assert moved(got, want, start) < 1e-6
    same = both(batches(80), cycle(80), split=by_group)[0]
    assert not torch.allclose(got.b.weight, same.b.weight, atol=1e-4)

def test_no_decay_where_the_state_says_so(path):
    "As `wd_bn_bias=False` does it, for a table and for a dense parameter"
    def before(model, opt):
        for p in (model.a.weight,model.lin.bias): opt.state[p]['do_wd'] = False
    opts = dict(eps=1e-10, wd=1.)
    got,want,start = both(batches(80), cycle(80), before=before, opts=opts)
    assert moved(got, want, start) < 1e-6 and not torch.allclose(got.a.weight,
        both(batches(80), cycle(80), opts=opts)[0].a.weight, atol=1e-4)

def freeze(s, model, opt):
    "A table stands still from step 20 to 40; without a gradient `Adam` leaves it alone too"
    if s==20:
        model.a.weight.requires_grad_(False)
        model.a.weight.grad = None
    if s==40: model.a.weight.requires_grad_(True)

def test_frozen_within_a_fit(path):
    seen = {}
    def each(s, model, opt):
        freeze(s, model, opt)
        if s in (20,40):
            if isinstance(opt, LazyAdam): opt.flush()
            seen.setdefault(isinstance(opt, LazyAdam), []).append(model.a.weight.detach().clone())
    assert moved(*both(batches(60), each=freeze)) < 1e-6
    assert moved(*both(batches(60), cycle(60), each=freeze)) < 1e-6
    both(batches(60), each=each)
    for k in seen: assert torch.equal(*seen[k]), k
    assert torch.allclose(seen[True][0], seen[False][0], rtol=1e-6)

def test_frozen_between_fits(path):
    res = []
    for f in (LazyAdam,Adam):
        model = make()
        opt = f(by_group(model), lr=1e-2, **EXACT)
        train(model, opt, batches(20, seed=1))
        before = model.a.weight.detach().clone()
        opt.freeze_to(1)
        model.a.weight.grad = None
        train(model, opt, batches(20, seed=2), cycle(20))
        assert torch.equal(before, model.a.weight) and not model.a.weight.requires_grad
        opt.unfreeze()
        res.append(train(model, opt, batches(20, seed=3), cycle(20)))
    assert moved(*res, make()) < 1e-6

def test_frozen_dense_parameters_stand_still():
    "Momentum and decay too, although `zero_grad` leaves zeros for a gradient"
    model = make()
    opt = LazyAdam(list(model.parameters()), lr=1e-2, **EXACT)
    train(model, opt, batches(20))
    for p in params(model.lin): p.requires_grad_(False)
    before = [p.clone() for p in params(model.lin)]
    train(model, opt, batches(20))
    assert all(torch.equal(a, b) for a,b in zip(before, params(model.lin))) and {opt.state[p]['step']
        for p in params(model.lin)}=={20}

class Twice(Net):
    "A table read for users and for items, and modules that share a table"
    def __init__(self, n=30, k=3):
        super().__init__(n, k)
        self.c = nn.Embedding(n, k)
        self.c.weight = self.b.weight
    def forward(self, x, z): return self.lin(self.a(x)*self.a(z)+self.b(x)*self.c(z))[:,0]

class Whole(Net):
    "A table that is also read as a whole, so that its gradient is dense"
    def forward(self, x, z): return super().forward(x, z) + self.b.weight.sum()/30

class Sometimes(Net):
    "A table that most steps do not use"
    calls = 0
    def forward(self, x, z):
        self.calls += 1
        return super().forward(x, z) if self.calls%7 in (3,4) else self.lin(self.a(x))[:,0]

@pytest.mark.parametrize('cls', [Twice, Whole, Sometimes])
def test_ways_to_use_a_table(cls, path):
    for hypers in (None,cycle(60)): assert moved(*both(batches(60), hypers, cls=cls)) < 1e-6

def test_a_whole_table_is_an_ordinary_parameter_from_then_on():
    model = make(Whole)
    opt = LazyAdam(list(model.parameters()), lr=1e-2).attach(model)
    assert set(opt.tables)=={model.a.weight,model.b.weight}
    one(model, opt, *next(batches(1)))
    assert set(opt.tables)=={model.a.weight}

def test_tables_stay_lazy_after_dense_gradients():
    "A fit that was not lazy leaves dense gradients behind; the next one has tables all the same"
    model = make()
    opt = LazyAdam(list(model.parameters()), lr=1e-2)
    for b in batches(3): one(model, opt, *b)                     # not attached: dense
    opt.attach(model)
    for b in batches(3): one(model, opt, *b)
    assert set(opt.tables)=={model.a.weight,model.b.weight}

@pytest.mark.parametrize('kwargs', [dict(padding_idx=0), dict(max_norm=.5), dict(scale_grad_by_freq=True)], ids=str)
def test_options_of_embeddings(kwargs, path):
    assert moved(*both(batches(60), cycle(60), emb=partial(nn.Embedding, **kwargs))) < 1e-6

def test_without_any_table():
    "Dense parameters alone: fastai's `Adam`, at any number of them"
    class Dense(Module):
        def __init__(self): self.layers = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        def forward(self, x, z): return self.layers(torch.stack([x,z], 1).double()/30)[:,0]
    got,want,start = both(batches(60), cycle(60), cls=Dense, opts=dict(wd=.1))
    assert moved(got, want, start) < 1e-12

# State

@pytest.mark.parametrize('first', [LazyAdam, Adam])
@pytest.mark.parametrize('second', [LazyAdam, Adam])
def test_state_goes_from_one_to_the_other(first, second, path):
    "A fit that is saved in the middle and goes on with a new optimizer, in memory and through a file's worth of copies"
    want,data = make(),list(batches(60))
    train(want, Adam(list(want.parameters()), lr=1e-2, **EXACT), data)
    model = make()
    opt = first(list(model.parameters()), lr=1e-2, **EXACT)
    if first is LazyAdam: opt.attach(model)
    for b in data[:25]: one(model, opt, *b)
    sd = copy.deepcopy(opt.state_dict())
    other = make()
    other.load_state_dict(model.state_dict())
    opt = second(list(other.parameters()), lr=1., wd=0.)
    if second is LazyAdam: opt.attach(other)
    opt.load_state_dict(sd)
    for b in data[25:]: one(other, opt, *b)
    if second is LazyAdam: opt.detach()
    assert opt.hypers[0]['lr']==1e-2 and moved(other, want, make()) < 1e-6
    assert {k for s in opt.state_dict()['state'] for k in s}=={'grad_avg','sqr_avg','step'}

def test_load_and_clear_in_the_middle(path):
    "Going back to an earlier state, and forgetting all of it, are what they are for `Adam`"
    for act in ('load','clear'):
        res = []
        for f in (LazyAdam,Adam):
            model = make()
            opt = f(list(model.parameters()), lr=1e-2, **EXACT)
            opt.state[model.a.weight]['do_wd'] = False
            def each(s, model, opt):
                if s==10: each.sd = copy.deepcopy(opt.state_dict())
                if s==30: opt.load_state_dict(each.sd) if act=='load' else opt.clear_state()
            res.append(train(model, opt, batches(50), cycle(50), each))
            assert opt.state[model.a.weight]['do_wd'] is False and opt.state[model.a.weight]['step']==(30
                if act=='load' else 20)
        assert moved(*res, make()) < 1e-6

def test_detach_leaves_modules_as_they_were():
    model = make(Twice)
    model.c.sparse = True                                        # as the user set it
    before = [(len(m._forward_pre_hooks),m.sparse) for m in (model.a,model.b,model.c)]
    opt = LazyAdam(list(model.parameters()), lr=1e-2)
    for _ in range(2):                                           # attaching twice is attaching once
        opt.attach(model)
        opt.attach(model)
        assert all(m.sparse and len(m._forward_pre_hooks)==1 for m in (model.a,model.b,model.c))
        for b in batches(3): one(model, opt, *b)
        opt.detach()
        assert [(len(m._forward_pre_hooks),m.sparse) for m in (model.a,model.b,model.c)]==before
        assert not opt.tables and not model._state_dict_pre_hooks and not model._load_state_dict_pre_hooks

READS = dict(eval=lambda m,o: m.eval()(torch.arange(30), torch.arange(30)), no_grad=lambda m,
    o: torch.no_grad()(m)(torch.tensor([29]), torch.tensor([29])),
    state_dict=lambda m,o: m.state_dict(), optimizer=lambda m,o: o.state_dict(),
    flush=lambda m,o: o.flush(), plan=lambda m,o: o.plan(), detach=lambda m,o: o.detach())

@pytest.mark.parametrize('read', READS)
def test_reads_bring_all_rows_to_the_present(read, path):
    res = []
    for f in (LazyAdam,Adam):
        model = make()
        opt = f(list(model.parameters()), lr=1e-2, **EXACT)
        if f is LazyAdam: opt.attach(model)
        for b in batches(40): one(model, opt, *b)
        if f is LazyAdam:
            late = model.a.weight.detach().clone()
            READS[read](model, opt)
            assert not torch.equal(late, model.a.weight)         # there was something to do
        res.append(model)
    assert moved(*res, make()) < 1e-6

def test_reads_in_training_take_their_rows_only():
    model = make()
    opt = LazyAdam(list(model.parameters()), lr=1e-2).attach(model)
    for b in batches(40): one(model, opt, *b)
    before = model.a.weight.detach().clone()
    model(torch.tensor([29,29,28]), torch.tensor([0,1,2]))
    assert (model.a.weight!=before).any(1).nonzero()[:,0].tolist()==[28,29]

def test_loaded_weights_stay(path):
    "Weights loaded in the middle of a fit are not moved by what waited before"
    model,other = make(),make()
    for p in other.parameters(): p.data += 1
    opt = LazyAdam(list(model.parameters()), lr=1e-2).attach(model)
    for b in batches(40): one(model, opt, *b)
    model.load_state_dict(other.state_dict())
    opt.detach()
    assert torch.equal(model.a.weight, other.a.weight)

# Errors, tables of steps

def test_errors(path):
    model = make()
    opt = LazyAdam(list(model.parameters()), lr=2., wd=.5).attach(model)
    with pytest.raises(ValueError, match=r'lr\*wd is 1 at step 1; .*lower lr or wd'): one(model, opt, *next(batches(1)))
    with pytest.raises(NotImplementedError, match='closure'): opt.step(lambda: 0)
    with pytest.raises(ValueError, match=r'lr\*wd is 3 at step 2'):
        StepTables(np.array([.1,3,.1]), np.full(3, .9), np.ones(3), .99, 1e-5)

def loop(lr, mom, wd, c, start, t, T):
    "Steps t+1..T on a row without a gradient, by definition: factor of p, multiple of m/sqrt(v), factors of m and v"
    p,moved,m,v = 1.,0.,1.,1.
    for s in range(t+1, T+1):
        a = start+s
        d = 1-lr[s-1]*wd[s-1]
        p,moved,m,v = p*d,moved*d,m*mom[s-1],v*c
        moved += lr[s-1]/(1-mom[s-1]**a)*m/math.sqrt(v/(1-c**a))
    return p,moved,m,v

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.sampled_from([.9,.99,.999]), st.sampled_from([0,3,5000]), st.integers(0, 99),
    st.sampled_from([0.,.9]))
def test_step_tables_against_a_loop(n, c, start, seed, least):
    rng = np.random.default_rng(seed)
    lr,mom,wd = rng.uniform(0, .2, n),rng.uniform(least, .99, n),rng.choice([0,.1,1.], n)
    o = StepTables(lr, mom, wd, c, 1e-5, start)
    assert o.n==n and o.steps.tab.shape==(n+1,8)
    D,G,L,b,w,e,d,c2 = o.steps.tab.T
    for t in range(n+1):
        for T in range(t, n+1):
            R = math.exp(L[T]-L[t])
            p,move,m,v = loop(lr, mom, wd, c, start, t, T)
            got = D[T]/D[t],D[T]*(G[t]-R*G[T]),R*o.steps.half[T-t],o.steps.half[T-t]**2
            assert np.allclose(got, (p,move,m,v), rtol=1e-8, atol=1e-11), (t,T)
    s = np.arange(1, n+1)+start
    assert np.allclose(w[1:], lr/(1-mom**s)*np.sqrt(1-c**s)) and np.allclose(e[1:],
        1e-5*np.sqrt(1-c**s)) and (c2==c).all()
    assert np.allclose(b[1:], mom) and np.allclose(d[1:], 1-lr*wd)
    assert all(o.fits(k+1, lr[k], mom[k], wd[k], c, 1e-5) for k in range(n)) and not o.fits(n+1, lr[-1], mom[-1],
        wd[-1], c, 1e-5)
    for k in range(5):
        assert not o.fits(1, *(v*1.01+(k==i)*.01 if k==i else v for i,v in enumerate((lr[0],mom[0],wd[0],c,1e-5))))

def test_step_tables_end_before_numbers_do():
    "Steps whose products leave float64 come in the next tables"
    o = StepTables(np.full(5000, .9), np.full(5000, .9), np.ones(5000), .99, 1e-5)
    assert 1<o.n<5000 and np.isfinite(o.steps.tab).all() and (o.steps.tab[:,0]>0).all()

@pytest.mark.parametrize('mom,decay,n', [(.9,.2,512), (.99,.1,512), (.95,.05,10_000), (.999,0,10_000), (.9,.6,400),
    (.95,.003,20_000)])
def test_long_step_tables_are_exact(mom, decay, n):
    "If decay is faster than momentum, or momentum outlasts the second moment, far steps must not swamp near ones"
    o = StepTables(np.full(n, .01), np.full(n, mom), np.full(n, decay/.01), .99, 1e-5, 100)
    D,G,L = o.steps.tab.T[:3]
    for t,T in ((0,1),(0,2),(1,5),(o.n//2,o.n//2+3)):
        if T>o.n: continue
        move = loop(*(np.full(T, v) for v in (.01,mom,decay/.01)), .99, 100, t, T)[1]
        assert math.isclose(D[T]*(G[t]-math.exp(L[T]-L[t])*G[T]), move, rel_tol=1e-6), (t,T)

@pytest.mark.parametrize('opts', [dict(wd=60.), dict(wd=20.), dict(wd=.1, mom=.999)], ids=str)
def test_strong_decay_and_momentum(opts, path):
    assert moved(*both(batches(200, most=3), opts=dict(eps=1e-12, **opts))) < 1e-6

# On a GPU

@pytest.mark.cuda
@pytest.mark.parametrize('emb', [nn.Embedding, ParamEmbedding])
def test_cuda(emb):
    models,data = [],list(batches(300, device='cuda'))
    for f in (LazyAdam,Adam):
        model = make(emb=emb).cuda()
        models.append(train(model, f(list(model.parameters()), lr=1e-2, **EXACT), data, cycle(300)))
    assert moved(*models, make(emb=emb).cuda()) < 1e-6
