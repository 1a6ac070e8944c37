"From files and tables to batches."
