"The Gibbs sampler: what it draws, and that threads, scale and odd tables don't disturb it"
import numpy as np, pytest
from fastcollab.train.sampler import GibbsSampler, SideSpec

def ratings(n=1500, users=60, items=40, seed=0, levels=5):
    "Rows of users and items, with an unknown row 0 and ids without ratings, and ratings that depend on both"
    rng = np.random.default_rng(seed)
    pairs = rng.permutation((users-4)*(items-3))[:n]
    u,i = pairs//(items-3)+1,pairs%(items-3)+1
    p,q = rng.standard_normal((2,max(users, items),3))
    y = (p[u]*q[i]).sum(1)/2+p[u,0]/2+q[i,0]+.3*rng.standard_normal(len(u))
    return np.stack([u,i], 1),np.clip(np.round(y+3), 1, levels) if levels else y

def spec(n, implicit=True, sizes=(), seed=1):
    rng = np.random.default_rng(seed)
    start = np.cumsum([0,*sizes])[:-1]
    rows = np.stack([s+rng.integers(0, c, n) for s,c in zip(start, sizes)], 1) if sizes else np.zeros((n,0), int)
    rows[0] = -1
    return SideSpec(n, implicit, rows.astype(np.int32), np.ones(rows.shape, np.float32), tuple(sizes))

def sampler(x, y, k=5, users=60, items=40, sets=(True,True), sizes=((),()), **kwargs):
    return GibbsSampler(x, y, spec(users, sets[0], sizes[0]), spec(items, sets[1], sizes[1]), k, **kwargs)

def swept(*args, sweeps=15, **kwargs):
    s = sampler(*args, **kwargs)
    for _ in range(sweeps): s.sweep()
    return s

def mean_ratings(s, sweeps=40):
    total = 0
    for _ in range(sweeps):
        s.sweep()
        if s.done>s.burn: total = total+s.train_ratings()
    return total/(s.done-s.burn)

def arrays(sample):
    for o in sample:
        if isinstance(o, tuple): yield from arrays(o)
        elif o is not None: yield np.asarray(o)

def same(a, b): return all((o==p).all() for o,p in zip(arrays(a.sample()), arrays(b.sample()), strict=True))

SHAPES = [dict(k=k, sets=sets, sizes=sizes) for k,sets,sizes in ((1,(True,True),((),())),(3,(False,True),((2,3),(4,))),
    (16,(True,False),((),(1,))),(20,(True,True),((1,),(3,5))),(7,(False,False),((),())))]

@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('levels', (5,None))
def test_the_seed_decides_and_threads_do_not(shape, levels):
    x,y = ratings(levels=levels)
    a,b,c,d = (swept(x, y, **shape, seed=seed, threads=t) for seed,t in ((0,1),(0,1),(0,2),(1,1)))
    assert same(a, b) and same(a, c) and not same(a, d)
    assert (a.train_ratings()==c.train_ratings()).all()

@pytest.mark.parametrize('shape', SHAPES)
def test_errors_are_those_of_the_tables(shape):
    "After 30 sweeps of changes, they are what the tables say"
    x,y = ratings()
    s = swept(x, y, sweeps=30, **shape)
    assert np.abs(s.errors-(s.latent-s._scores())).max()<1e-3

@pytest.mark.parametrize('shape', SHAPES)
def test_scores_without_the_pair(shape):
    "Without sets, leave-one-out scores are products of the tables of a sample; with sets, the pair's share is missing"
    x,y = ratings(levels=None)
    s = swept(x, y, **shape)
    o,(u,i) = s.sample(),x.T
    a,b = o.users[u],o.items[i]
    count = [np.bincount(r)[r][:,None]**-.5 for r in (u,i)]
    if o.implicit[0] is not None: a = a-count[0]*o.implicit[0][i]
    if o.implicit[1] is not None: b = b-count[1]*o.implicit[1][u]
    k = s.k
    scores = (a[:,:k]*b[:,:k]).sum(1)+a[:,k]+b[:,k]
    assert np.allclose(s.mean+s.scale*scores, s.train_ratings(), atol=2e-3)

@pytest.mark.parametrize('shape', SHAPES)
def test_shapes_of_a_sample(shape):
    x,y = ratings()
    s = swept(x, y, sweeps=12, **shape)
    o,k = s.sample(),s.k+1
    assert s.k==shape['k'] and o.users.shape==(60,k) and o.items.shape==(40,k)
    assert [p.shape for p in o.own]==[(60,k),(40,k)]
    assert [p.shape for p in o.features]==[(sum(z),k) for z in shape['sizes']]
    for table,has,n in zip(o.implicit, shape['sets'], (40,60)): assert table.shape==(n,k) if has else table is None
    assert o.user_precision.shape==(60,) and o.item_precision.shape==(40,)
    assert all(np.isfinite(p).all() for p in arrays(o))
    assert all(p.shape==(k,) and (p>0).all() for p in s.precisions.values())
    names = [f'{a}{b}' for b,has in zip(('users','items'), shape['sets']) for a in ('','sets of ')[:1+has]]
    names += [f'feature {f+1} of {b}' for b,z in zip(('users','items'), shape['sizes']) for f in range(len(z))]
    assert set(s.precisions)==set(names)

def test_ids_without_ratings_get_the_mean():
    "Of their group, and what their features add"
    x,y = ratings()
    s = swept(x, y, sizes=((3,),()))
    o = s.sample()
    assert (o.items[[0,38,39]]==o.items[0]).all()
    for u in (0,58,59):
        added = o.features[0][s.sides[0].spec.rows[u,0]] if u else 0
        assert np.allclose(o.users[u]-added, o.own[0][0], atol=1e-6)

@pytest.mark.parametrize('levels', (5,None))
def test_it_learns(levels):
    x,y = ratings(levels=levels)
    s = sampler(x, y, k=4)
    got = mean_ratings(s)
    assert ((got-y)**2).mean()<.3*y.var()
    assert 0<s.noise<y.std() and s.done==40

@pytest.mark.parametrize('factor', (1000,1e-3))
def test_scale_of_the_ratings(factor):
    "More than 20 levels are taken as numbers: predictions scale with the ratings"
    x,y = ratings(levels=None)
    a,b = (mean_ratings(sampler(x, o, k=3)) for o in (y,y*factor))
    assert np.allclose(a*factor, b, rtol=.05, atol=.05*factor)

@pytest.mark.parametrize('y,expected', ((np.full(300, 4.),4),(np.full(300, 1e6),1e6),(np.full(300, 0.),0)))
def test_all_ratings_equal(y, expected):
    x,_ = ratings(300)
    got = mean_ratings(sampler(x, y))
    assert np.allclose(got, expected, rtol=1e-3, atol=1e-3)

def test_a_single_rating():
    s = sampler(np.array([[1,1]]), np.array([3.]))
    got = mean_ratings(s)
    assert np.allclose(got, 3) and all(np.isfinite(p).all() for p in arrays(s.sample()))

@pytest.mark.parametrize('levels', (5,None))
def test_one_rating_for_each_user(levels):
    rng = np.random.default_rng(0)
    x = np.stack([np.arange(1, 200), rng.integers(1, 10, 199)], 1)
    y = x[:,1]%5+1+(0 if levels else .1*rng.standard_normal(199))
    s = sampler(x, y, users=200, items=10)
    got = mean_ratings(s)
    assert np.isfinite(got).all() and ((got-y)**2).mean()<y.var()

def test_default_factors_follow_ratings():
    "More of them from 50 ratings for each id on"
    x,y = ratings(1500)
    few,many = sampler(x, y, None).k,sampler(x[x[:,0]<8], y[x[:,0]<8], None, users=8, items=40).k
    assert few==many==sampler(x[:20], y[:20], None).k
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 5, 2000), rng.integers(0, 5, 2000)], 1)
    assert sampler(x, rng.standard_normal(2000), None, users=5, items=5).k>few

def test_columns_of_categories():
    "A feature may have several columns, as genres do: sample and errors follow all of them"
    x,y = ratings(levels=None)
    o = spec(60, True, (3,4))
    both = o._replace(rows=np.c_[o.rows,np.where(o.rows[:,1:]<6, o.rows[:,1:]+1, -1)].astype(np.int32),
        weights=np.full((60,3), .7, np.float32))
    s = GibbsSampler(x, y, both, spec(40), 4)
    for _ in range(20): s.sweep()
    error = np.abs(s.errors-(s.latent-s._scores())).max()
    s.refresh()
    assert error<1e-3 and np.abs(s.errors-(s.latent-s._scores())).max()<1e-6

def dense(s, design, prior, mean):
    "Mean and covariance of a normal posterior of all numbers of a block"
    us,it = (o.half for o in s.sides)
    w = s.precision*np.repeat(us.facts[:,1], s.sides[0].counts)*it.facts[us.others,1]
    K = np.diag(prior)+(design*w[:,None]).T@design
    return np.linalg.solve(K, design.T@(w*s.latent)+prior*mean),np.linalg.inv(K)

def test_a_block_is_drawn_from_its_posterior():
    "Given precisions and the other side, own parts, sets and features are normal, with a precision matrix to invert"
    x,y = ratings(40, 10, 9, levels=None)
    s,k = swept(x, y, 2, 10, 9, sizes=((2,),()), sweeps=14),3
    us,it = s.sides
    h,t,rng = us.half,it.half,np.random.default_rng(0)
    n,m = len(us.rated),len(it.rated)
    u,i = np.repeat(np.arange(n), us.counts),h.others
    v = t.vectors[0,i,:k]-t.facts[i,:1]*t.sets[0,u,:k]*np.array([0,1,1])
    fixed = t.bias[i]-t.facts[i,0]*t.sets[0,u,0]
    member = np.zeros((n,m))
    member[u,i] = 1
    weights = np.zeros((n,2))
    for c in range(2): weights[h.f_rows[h.f_ends[c]:h.f_ends[c+1]],c] = h.f_weights[h.f_ends[c]:h.f_ends[c+1]]
    parts = np.c_[np.eye(n)[u],(member[u]-np.eye(m)[i])*h.facts[u,:1],weights[u]]       # own, sets, features
    design = (parts[:,:,None]*v[:,None]).reshape(len(u), -1)
    groups = (0,n),(1,m),(2,2)
    prior,mean = (np.concatenate([np.tile(o[g,0,:k], r) for g,r in groups]) for o in (us.precision,us.mean))
    before = s.latent
    s.latent = s.latent-fixed
    expected,cov = dense(s, design, prior, mean)
    s.latent = before
    draws,res = [],np.empty_like(s.errors)
    for d in range(12000):
        normals = [np.where(np.arange(8)<k, rng.standard_normal((1,o,8)), 0).astype(np.float32) for o in (n,m,2)]
        p = s.kernels.Priors(us.precision.reshape(-1, 8), us.mean.reshape(-1, 8), *normals, np.full((1,8), -1e9),
            np.ones((1,8)))                                                              # scales stay as they are
        s.kernels.half(h, t, p, s.errors, res, 1, np.float32(s.precision), True, True, s.bounds[0], 0, s.sync, 1., .1)
        s.errors = res[h.place]
        draws.append(np.concatenate([o[0,:,:k].ravel() for o in (h.own,h.sets,h.features)]))
    draws = np.array(draws[200:])
    scale = np.sqrt(np.diag(cov))
    assert np.abs((draws.mean(0)-expected)/scale).max()<.15
    assert np.abs(draws.std(0)/scale-1).max()<.1
    scores = design@draws.T
    assert np.abs((scores.mean(1)-design@expected)/np.sqrt(np.diag(design@cov@design.T))).max()<.1
    assert np.abs(scores.std(1)/np.sqrt(np.diag(design@cov@design.T))-1).max()<.05
