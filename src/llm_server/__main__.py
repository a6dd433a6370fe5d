"""The command line's entry: `llm-server` and `python -m llm_server`."""


def main() -> None:
    """Run the command line."""
    from llm_server.cli.app import app  # here, so that importing this module costs nothing

    app()


if __name__ == "__main__":
    main()
