"""`python -m mindvl_train`."""

if __name__ == "__main__":
    from mindvl_train.cli import main

    main()
