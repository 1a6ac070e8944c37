"Compiled loops on plain arrays. They know nothing of torch modules or fastai."
