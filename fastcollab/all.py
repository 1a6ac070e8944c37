"The one import door: `from fastcollab.all import *` brings fastai's tabular names and everything of fastcollab"
from fastai.tabular.all import *
from fastai.collab import *
from fastcollab.datasets import *
from fastcollab.layers import *
from fastcollab.metrics import *
from fastcollab.losses import *
from fastcollab.splits import *
from fastcollab.features import *
from fastcollab.data import *
from fastcollab.models import *
from fastcollab.feature_models import *
from fastcollab.optimizer import *
from fastcollab.callback import *
from fastcollab.learner import *
from fastcollab.metadata import *
from fastcollab.feedback import *
from fastcollab.interpret import *
