"The packages from the ground up: a module imports from earlier packages, and from earlier modules of its own"
# '': modules in no package
PACKAGES = ['kernels', '', 'data', 'recommend', 'models', 'train', 'evaluate', 'interpret', 'cli', 'all']
