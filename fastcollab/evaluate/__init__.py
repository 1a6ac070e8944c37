"Measure lists on held-out data, and compare models."
