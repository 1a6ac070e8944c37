"What moves the parameters of a model: optimizers, loops, callbacks, the learner."
