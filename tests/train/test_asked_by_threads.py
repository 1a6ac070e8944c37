"A learner that several threads ask at once: the answers of one thread, and the learner as it was"
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pytest, torch
from fastai.callback.progress import ProgressCallback
from fastcollab.all import CollabNN, DotProductBias, collab_learner
from small import load, quiet

def learner(way, training):
    "A small fitted learner, in training mode or not"
    torch.manual_seed(1)
    learn = collab_learner(load(), arch=CollabNN if way=='net' else DotProductBias, n_factors=4, y_range=(0,5.5))
    if way=='gibbs':
        with learn.no_bar(), learn.no_logging(): learn.fit_gibbs(30)
    else: quiet(learn, 1)
    learn.model.train(training)
    return learn

@pytest.mark.parametrize('training', [False,True], ids=['eval','train'])
@pytest.mark.parametrize('way', ['adam','net','gibbs'])
def test_threads_get_the_answers_of_one(way, training):
    "Predictions, intervals, probabilities, lists and get_preds; parameters, modes and random state stay"
    learn = learner(way, training)
    users,items = (learn.dls.train_ds.enc.index[o].to_numpy() for o in learn.dls.train_ds.enc.id_names)
    def ask(k):
        u,some = np.repeat(users[k%len(users)], 20),np.resize(items, 20)
        res = [learn.predict(u, some), learn.recommend(u[0], 3).prediction.to_numpy()]
        if way=='gibbs': res += [learn.predict(u, some, interval=.9).to_numpy(), learn.predict_dist(u, some).to_numpy()]
        if k%5==0: res.append(learn.get_preds()[0].numpy())
        return res
    learn.remove_cb(ProgressCallback)   # `no_bar` takes it away and back again, which threads can't do one by one
    want = [ask(k) for k in range(12)]
    state,modes = {k:v.clone() for k,v in learn.model.state_dict().items()},[m.training for m in learn.model.modules()]
    random = torch.get_rng_state()
    with ThreadPoolExecutor(6) as pool: got = list(pool.map(ask, range(12)))
    assert all(np.array_equal(a, b) for one,other in zip(got, want) for a,b in zip(one, other))
    assert all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
    assert [m.training for m in learn.model.modules()]==modes and torch.equal(torch.get_rng_state(), random)

@pytest.mark.parametrize('kwargs', [dict(), dict(fused=False), dict(arch=CollabNN)], ids=['compiled','torch','net'])
def test_a_fit_in_a_thread_is_that_of_the_main_thread(kwargs):
    def weights():
        torch.manual_seed(1)
        learn = quiet(collab_learner(load(), n_factors=4, y_range=(0,5.5), **kwargs), 1)
        return [p.detach().clone() for p in learn.model.parameters()]
    with ThreadPoolExecutor(1) as pool: there = pool.submit(weights).result()
    assert all(torch.equal(a, b) for a,b in zip(weights(), there))
