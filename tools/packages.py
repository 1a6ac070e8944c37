"The packages of fastcollab from the ground up: a module imports from those that stand earlier in the list, and from earlier modules of its own"
PACKAGES = ['kernels', '', 'data', 'recommend', 'models', 'train', 'evaluate', 'interpret', 'cli', 'all']   # '': modules in no package
