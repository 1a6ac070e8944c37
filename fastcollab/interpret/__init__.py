"Tables, plots and reports: what a model has learned, and where it is wrong."
