"`python -m fastcollab.cli`, which `torchrun -m fastcollab.cli` needs: the command `fastcollab`"
from .main import main

main()
