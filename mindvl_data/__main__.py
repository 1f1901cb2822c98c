"""`python -m mindvl_data`."""

if __name__ == "__main__":
    from mindvl_data.cli import main

    main()
