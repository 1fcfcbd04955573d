"""Lets `python -m tem_pipeline.cli` run the command line."""

from tem_pipeline.cli import main

if __name__ == "__main__":
    main()
