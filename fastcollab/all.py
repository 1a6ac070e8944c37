"`from fastcollab.all import *` brings the names of fastai's tabular and collab modules, and all that you call of ours"
# chkstyle: skip (imports are what this module is for)
from fastai.tabular.all import *
from fastai.collab import *

# Data: from files and tables to batches
from fastcollab.data.datasets import movielens, movielens_fold
from fastcollab.data.netflix import netflix_prize
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.data.splits import (RandomSplitter, StratifiedSplitter, UserStratifiedSplitter, LeaveLastSplitter,
    LastShareSplitter, ItemStratifiedSplitter, TemporalSplitter, ColdUserSplitter, ColdItemSplitter, FoldSplitter,
    split_leaks)
from fastcollab.data.features import GenreCategorify, FeatureSpec
from fastcollab.data.times import unix_seconds
from fastcollab.data.ratings import describe_ratings, plot_ratings
from fastcollab.data.loaders import CollabDataLoaders

# Models, and what you build your own from
from fastcollab.models.layers import create_params, ParamEmbedding, GenreEmbedding, FeatureEmbedding, emb_size
from fastcollab.recommend.base import Factors, Link, FoldTerms
from fastcollab.models.base import reading, CollabModel, collab_model, SidePlan, FusePlan
from fastcollab.models.mf import DotProduct, DotProductBias, BiasBaseline
from fastcollab.models.nn import CollabNN, LinearCollab
from fastcollab.models.hybrid import HybridMF, HybridNN, GenreDotProductBias, GenreCollabNN
from fastcollab.models.session import SessionEffects
from fastcollab.models.svdpp import SVDPlusPlus
from fastcollab.models.ensemble import LeadEnsemble, PosteriorAverage, RankEnsemble, WeightedEnsemble

# Models in closed form for clicks
from fastcollab.models.neighbors import EASE, ItemKNN, Popular, SLIM, Successors
from fastcollab.models.lightgcn import LightGCN

# Losses and metrics
from fastcollab.losses import RatingLoss, RatingMSE, OrdinalLoss, gravity
from fastcollab.metrics import rmse, mae, half_star, half_star_accuracy, gini
from fastcollab.ranking import (find_hits, user_mean, ndcg, recall, precision, average_precision, reciprocal_rank,
    hit_rate, auc_scores, coverage, exposure_gini, novelty, popularity_lift, diversity, genre_vectors)

# Ranking: clicks, negatives and losses
from fastcollab.data.interactions import to_implicit
from fastcollab.data.sampling import NegativeSampler
from fastcollab.ranking_losses import (RankingLoss, BPRLoss, WARPLoss, AdaptiveHingeLoss, SampledSoftmaxLoss, BCELoss)

# Training
from fastcollab.train.optimizer import LazyAdam
from fastcollab.train.loops import CollabCallback
from fastcollab.train.callbacks import (IdDropout, ValidRMSE, FitSessionEffects, GravityRegularizer, BiasInterpretation,
    sched_step)
from fastcollab.train.ranking import (NDCG, Recall, Precision, MAP, MRR, HitRate, AUC, Coverage, ExposureGini,
    Novelty, PopularityLift, Diversity)
from fastcollab.train.auto import auto_config, rating_range, new_id_share
from fastcollab.train.verdict import baseline_rmse
from fastcollab.train.learner import CollabLearner, collab_learner
from fastcollab.train.ensemble import ensemble

# Recommendations
from fastcollab.recommend.recommender import Recommender

# Lists on held-out data
from fastcollab.evaluate.protocol import evaluate
from fastcollab.evaluate.compare import compare

# What a model has learned, and where it is wrong
from fastcollab.interpret.popularity_bias import PopularityBias
from fastcollab.interpret.feedback_loop import simulate_feedback, plot_feedback
from fastcollab.interpret.item_map import item_map
from fastcollab.interpret.core import CollabInterpretation
from fastcollab.interpret.cold_start import MetadataEmbedding

# Arguments in help() and in editors
import fastcollab.signatures as _signatures
_signatures.explain_arguments(globals())
