"""How commands end: docs/cli.md says what each code means."""

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
