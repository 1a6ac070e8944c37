"Recommendations without fastai: what is saved, served and explained."
