"""The entry point of the commands `llm-server` and `python -m llm_server`."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells set it: 128 and the number of SIGINT."""


def main() -> None:
    """Run the command line. Ctrl-C ends it with exit code 130, also while it starts."""
    try:
        from llm_server.cli.app import app  # imported here, so that importing this module is fast
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    app()


if __name__ == "__main__":
    main()
