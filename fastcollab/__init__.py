"Collaborative filtering with fastai: checks, losses and metrics stand here, all else in packages."
__version__ = "0.1.0"
