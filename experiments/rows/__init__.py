"""One module per row of results: paper, expectation, command."""
