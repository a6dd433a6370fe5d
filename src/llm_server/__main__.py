"""The entry point of the commands `llm-server` and `python -m llm_server`."""


def main() -> None:
    """Run the command line."""
    from llm_server.cli.app import app  # imported here, so that importing this module is fast

    app()


if __name__ == "__main__":
    main()
