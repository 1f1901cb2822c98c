"""`python -m mindvl_train`."""

from mindvl_train.cli import main

main()
