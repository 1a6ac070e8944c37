"A fit that goes on where another one stopped gives what one fit without a stop gives"
import pytest, torch
from fastcollab.all import CollabNN, DotProductBias, SaveModelCallback, SVDPlusPlus, collab_learner
from small import load

def built(path, arch=DotProductBias):
    torch.manual_seed(1)
    return collab_learner(load(), arch=arch, n_factors=4, y_range=(0,5.5), path=path)

def weights(learn): return torch.cat([o.detach().flatten() for o in learn.model.parameters()])

@pytest.mark.parametrize('fit', ['fit_flat_cos','fit_one_cycle','fit'])
@pytest.mark.parametrize('arch', [DotProductBias,CollabNN])
def test_from_the_file_of_an_epoch(arch, fit, tmp_path):
    "Every schedule goes on at `start_epoch`, with the learning rates that are left"
    want,got = built(tmp_path, arch),built(tmp_path, arch)
    with want.no_bar(), want.no_logging():
        getattr(want, fit)(4, 2e-2, cbs=SaveModelCallback(every_epoch=True, with_opt=True, fname='m'))
    got.load('m_1', with_opt=True)
    with got.no_bar(), got.no_logging(): getattr(got, fit)(4, 2e-2, start_epoch=2)
    assert got.recorder.lrs==pytest.approx(want.recorder.lrs[len(want.recorder.lrs)//2:])
    assert (weights(got)-weights(want)).abs().max()<1e-5

@pytest.mark.parametrize('first', [40,55,119])
@pytest.mark.parametrize('arch', [DotProductBias,SVDPlusPlus])
def test_a_chain_that_goes_on(arch, first, tmp_path):
    "Sweeps in two calls of fit_gibbs are those of one: samples, tables and predictions, to the last bit"
    res = []
    for parts in ((120,),(first,120-first)):
        learn = built(tmp_path, arch)
        with learn.no_bar(), learn.no_logging():
            for k,o in enumerate(parts): learn.fit_gibbs(o, resume=k>0)
        res.append(learn)
    assert all(torch.equal(*o) for o in zip(*(o.model.samples() for o in res)))
    assert torch.equal(*map(weights, res)) and torch.equal(*(o.get_preds()[0] for o in res))
